//! Whether a text says that a session is not there (rule D9).

/// What is said of a session that is not there, each as its words.
const SAID: [&[&str]; 8] = [
    &["not", "found"],
    &["unknown"],
    &["invalid"],
    &["expired"],
    &["terminated"],
    &["no", "valid"],
    &["no", "active"],
    &["missing"],
];

/// How far from the word `session` the rest may be, in bytes: an id may stand between.
const NEAR: usize = 160;
/// How much of a text is looked at, in bytes.
const MAX_TEXT: usize = 64 * 1024;

/// Whether the text speaks of a session that is not there, in whatever case, as words or as one
/// name (`SESSION_NOT_FOUND`, `invalidSession`).
pub(super) fn speaks_of_session(text: &[u8]) -> bool {
    let text = &text[..text.len().min(MAX_TEXT)];
    let mut looked_at = 0;
    memchr::memchr2_iter(b's', b'S', text)
        .filter(|at| begins(&text[*at..], &["session"]))
        .any(|at| {
            // What the last one had around it is not looked at again.
            let from = at.saturating_sub(NEAR).max(looked_at);
            looked_at = text.len().min(at + NEAR);
            (from..looked_at).any(|at| SAID.iter().any(|words| begins(&text[at..], words)))
        })
}

/// Whether the text begins with these words.
fn begins(text: &[u8], words: &[&str]) -> bool {
    let rest = words
        .iter()
        .enumerate()
        .try_fold(text, |rest, (nth, word)| {
            let rest = match rest {
                [b' ' | b'_' | b'-', rest @ ..] if nth > 0 => rest,
                rest => rest,
            };
            let (first, rest) = rest.split_at_checked(word.len())?;
            first.eq_ignore_ascii_case(word.as_bytes()).then_some(rest)
        });
    rest.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d9_the_session_is_spoken_of_in_any_case_and_order() {
        for text in [
            "session not found",
            "Session Not Found",
            "SESSION_NOT_FOUND",
            "sessionNotFound",
            "session-not-found",
            "unknown session",
            "Invalid or missing session ID",
            "The session with id 0a1b2c3d-0000-0000-0000-0a1b2c3d4e5f was not found",
            "No active session",
            "no valid Mcp-Session-Id",
            "mcp-session-id: missing",
            "sessions were terminated",
        ] {
            assert!(speaks_of_session(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn d9_one_of_the_words_alone_says_nothing_of_the_session() {
        let far = format!("session {} not found", "x".repeat(NEAR));
        let late = format!("{} session not found", "x".repeat(MAX_TEXT));
        for text in [
            "",
            "session",
            "not found",
            "invalid token",
            "a sess ion expired",
            &far,
            &late,
        ] {
            assert!(!speaks_of_session(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn d9_the_words_are_found_wherever_they_are_between_many_sessions() {
        for gap in 0..NEAR {
            let text = format!("session session {}session {} expired", "x".repeat(gap), gap);
            assert!(speaks_of_session(text.as_bytes()), "{gap}");
            let text = format!("expired {}session session", "x".repeat(gap.min(NEAR - 8)));
            assert!(speaks_of_session(text.as_bytes()), "{gap}");
        }
    }
}
