//! Durations on the command line.

use std::time::Duration;

/// `10s`, `500ms`, `2m`, `1h`; a bare number is seconds.
pub fn parse(text: &str) -> Result<Duration, &'static str> {
    const NONE: &str = "a duration is a number and ms, s, m or h, as in 10s";
    let digits = text.find(|it: char| !it.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| NONE)?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60 * 1000),
        "h" => number.checked_mul(60 * 60 * 1000),
        _ => return Err(NONE),
    };
    // More than a year is for ever, and so that no clock runs over.
    const LONGEST: u64 = 365 * 24 * 60 * 60 * 1000;
    Ok(Duration::from_millis(
        milliseconds.unwrap_or(LONGEST).min(LONGEST),
    ))
}
