//! The ids of JSON-RPC requests, compared as clients compare them (rule C4).

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use serde_core::de::{Deserializer, Visitor};
use serde_json::value::RawValue;

/// The id of a JSON-RPC request, equal by value whatever its spelling: `1`, `1.0` and `1e0` are one
/// id, `"1"` and `"\u0031"` are another.
///
/// Its `Display` is its JSON, without line breaks. Cloning it copies nothing.
#[derive(Clone)]
pub(crate) struct Id(Repr);

#[derive(Clone)]
enum Repr {
    Integer(i64),
    Text(Arc<str>),
    /// A number that is no `i64`, or a string that is no Unicode.
    Spelled(Arc<Spelled>),
}

/// The JSON of an id. What it comes to is found out once: an id may be long, and it is compared with
/// many.
struct Spelled {
    json: Box<str>,
    /// `None` where nothing but the spelling is to be compared.
    value: Option<Value>,
}

/// What is equal for all spellings.
#[derive(PartialEq, Eq, Hash)]
enum Value {
    Number(Decimal),
    /// A string, with a code point that is no character, in WTF-8.
    Text(Box<[u8]>),
}

impl Id {
    /// The id that this JSON is. Nearly all are small integers.
    pub(super) fn from_json(json: &[u8]) -> Option<Self> {
        // Fewer digits than an `i64` has, and none that JSON forbids.
        const MAX_DIGITS: usize = 18;
        if json.len() > MAX_DIGITS || matches!(json, [] | [b'0', _, ..]) {
            return Self::from_any_json(json);
        }
        let mut id = 0;
        for byte in json {
            if !byte.is_ascii_digit() {
                return Self::from_any_json(json);
            }
            id = id * 10 + i64::from(byte - b'0');
        }
        Some(Self(Repr::Integer(id)))
    }

    #[inline(never)]
    fn from_any_json(json: &[u8]) -> Option<Self> {
        Self::parse(serde_json::from_slice(json).ok()?)
    }

    /// `None` for what JSON-RPC has no ids of: `null`, booleans, arrays and objects.
    pub(super) fn parse(raw: &RawValue) -> Option<Self> {
        let raw = raw.get();
        if !is_id(raw) {
            return None;
        }
        let repr = match plain_string(raw) {
            Some(text) => Repr::Text(text.into()),
            None if raw.starts_with('"') => match serde_json::from_str::<String>(raw) {
                Ok(text) => Repr::Text(text.into()),
                Err(_) => Repr::spelled(raw, wtf8(raw).map(Value::Text)),
            },
            None => match raw.parse() {
                Ok(integer) => Repr::Integer(integer),
                Err(_) => Repr::number(raw),
            },
        };
        Some(Self(repr))
    }

    /// What it holds in memory besides itself, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        match &self.0 {
            Repr::Integer(_) => 0,
            Repr::Text(text) => text.len(),
            Repr::Spelled(it) => {
                let value = match &it.value {
                    Some(Value::Number(number)) => number.digits.len(),
                    Some(Value::Text(text)) => text.len(),
                    None => 0,
                };
                it.json.len() + value
            }
        }
    }
}

impl Repr {
    fn number(json: &str) -> Self {
        let number = Decimal::parse(json);
        match number.as_ref().and_then(Decimal::integer) {
            Some(integer) => Self::Integer(integer),
            None => Self::spelled(json, number.map(Value::Number)),
        }
    }

    fn spelled(json: &str, value: Option<Value>) -> Self {
        let json = json.into();
        Self::Spelled(Arc::new(Spelled { json, value }))
    }
}

/// Whether this JSON can be an id: a string or a number.
pub(super) fn is_id(raw: &str) -> bool {
    raw.starts_with(|first: char| matches!(first, '"' | '-' | '0'..='9'))
}

/// A JSON string that has no escapes.
pub(super) fn plain_string(raw: &str) -> Option<&str> {
    let string = raw.strip_prefix('"')?.strip_suffix('"')?;
    (!string.contains('\\')).then_some(string)
}

/// The value of a JSON string, which may hold half a surrogate pair.
fn wtf8(raw: &str) -> Option<Box<[u8]>> {
    struct BytesVisitor;

    impl Visitor<'_> for BytesVisitor {
        type Value = Box<[u8]>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_bytes<E>(self, text: &[u8]) -> Result<Self::Value, E> {
            Ok(text.into())
        }
    }

    let mut json = serde_json::Deserializer::from_str(raw);
    json.deserialize_bytes(BytesVisitor).ok()
}

impl From<String> for Id {
    fn from(id: String) -> Self {
        Self(Repr::Text(id.into()))
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Repr::Integer(a), Repr::Integer(b)) => a == b,
            (Repr::Text(a), Repr::Text(b)) => a == b,
            (Repr::Spelled(a), Repr::Spelled(b)) => match (&a.value, &b.value) {
                (Some(a), Some(b)) => a == b,
                _ => a.json == b.json,
            },
            _ => false,
        }
    }
}

impl Eq for Id {}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.0 {
            Repr::Integer(integer) => integer.hash(state),
            Repr::Text(text) => text.hash(state),
            Repr::Spelled(it) => match &it.value {
                Some(value) => value.hash(state),
                None => it.json.hash(state),
            },
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Integer(integer) => integer.fmt(f),
            Repr::Text(text) => {
                f.write_str(&serde_json::to_string(&**text).map_err(|_| fmt::Error)?)
            }
            Repr::Spelled(it) => f.write_str(&it.json),
        }
    }
}

/// What is equal for all spellings of a number: `digits` times ten to the `exponent`, where the
/// digits neither begin nor end with a zero.
#[derive(PartialEq, Eq, Hash)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// `None` where the exponent is beyond all use: such numbers are compared as they are spelled.
    fn parse(raw: &str) -> Option<Self> {
        let (negative, raw) = match raw.strip_prefix('-') {
            Some(raw) => (true, raw),
            None => (false, raw),
        };
        let (mantissa, exponent) = raw.split_once(['e', 'E']).unwrap_or((raw, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let significant = all.trim_end_matches('0');
        let digits = significant.trim_start_matches('0').to_owned();
        if digits.is_empty() {
            // There is one zero.
            return Some(Self {
                negative: false,
                digits,
                exponent: 0,
            });
        }
        let zeros = i64::try_from(all.len() - significant.len()).ok()?;
        let fraction = i64::try_from(fraction.len()).ok()?;
        let exponent = exponent.parse::<i64>().ok()?;
        Some(Self {
            negative,
            digits,
            exponent: exponent.checked_add(zeros - fraction)?,
        })
    }

    fn integer(&self) -> Option<i64> {
        if self.digits.is_empty() {
            return Some(0);
        }
        let power = 10_i64.checked_pow(u32::try_from(self.exponent).ok()?)?;
        let sign = if self.negative { "-" } else { "" };
        let digits: i64 = format!("{sign}{}", self.digits).parse().ok()?;
        digits.checked_mul(power)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn id(raw: &str) -> Id {
        Id::parse(&RawValue::from_string(raw.to_owned()).unwrap()).unwrap()
    }

    #[test]
    fn c4_ids_are_equal_by_value_however_they_are_spelled() {
        for same in [
            &["1", "1.0", "1e0", "1E+0", "10e-1", "0.1e1", "1.000"][..],
            &["0", "-0", "0.0", "-0e9", "0e999999999999999999999999"],
            &["-7", "-7.0", "-70e-1"],
            &["1.5", "15e-1", "0.15E1", "1.50"],
            &["9223372036854775807", "9223372036854775807.0"],
            &["9223372036854775808", "9223372036854775808.0"],
            &["18446744073709551616", "18446744073709551616e0"],
            &["1e400", "10e399", "0.1e401"],
            &["1e20", "100000000000000000000"],
            &[r#""1""#, r#""\u0031""#],
            &[r#""a/b""#, r#""a\/b""#, r#""a\u002fb""#, r#""\u0061/b""#],
            &[r#""\ud83d\ude00""#, r#""😀""#],
            &[r#""\ud83d""#, r#""\uD83D""#, r#""\uD83d""#],
            &[
                r#""a\ud83d/é""#,
                r#""\u0061\uD83D\/\u00e9""#,
                r#""\u0061\ud83d/é""#,
            ],
            &[r#""\ude00\ud83d""#, r#""\uDE00\uD83D""#],
        ] {
            for (a, b) in same.iter().flat_map(|a| same.iter().map(move |b| (a, b))) {
                assert!(id(a) == id(b), "{a} {b}");
                let ids = HashSet::from([id(a), id(b)]);
                assert_eq!(ids.len(), 1, "{a} {b}");
            }
        }
    }

    #[test]
    fn c4_what_is_not_equal_is_not_one_id() {
        let different = [
            "1",
            r#""1""#,
            r#""1.0""#,
            "-1",
            "1.5",
            "15",
            "0",
            r#""""#,
            "1e400",
            "1e401",
            "-1e400",
            "9007199254740992",
            "9007199254740993",
            "9223372036854775807",
            "9223372036854775808",
            "1e999999999999999999999999",
            r#""\ud800""#,
            r#""\ud801""#,
            r#""\\ud800""#,
            r#""a\ud800""#,
        ];
        let ids: HashSet<_> = different.iter().map(|raw| id(raw)).collect();
        assert_eq!(ids.len(), different.len());
    }

    #[test]
    fn c4_what_is_neither_string_nor_number_is_no_id() {
        for raw in ["null", "true", "[1]", r#"{"id":1}"#] {
            let raw = RawValue::from_string(raw.to_owned()).unwrap();
            assert!(Id::parse(&raw).is_none(), "{raw}");
        }
    }

    #[test]
    fn c4_an_id_is_written_as_json_of_the_same_value() {
        for raw in [
            "1.0",
            "-0",
            "1e400",
            "1e20",
            "18446744073709551616",
            r#""a\"\n\u2028""#,
            r#""\ud800""#,
        ] {
            let written = id(raw).to_string();
            assert!(id(&written) == id(raw), "{raw} {written}");
        }
    }

    /// K: the server chooses how often a caller's id is compared, and the caller how long it is.
    #[test]
    #[cfg_attr(miri, ignore = "it takes too long")]
    fn k_a_long_number_is_read_once_however_often_it_is_compared() {
        let (long, other) = (id(&"1".repeat(1_000_000)), id("1e99"));
        for _ in 0..100_000 {
            assert!(long != other);
        }
        assert_eq!(long.held_bytes(), 2_000_000);
    }

    #[test]
    fn k7_an_id_is_small() {
        assert!(size_of::<Id>() <= 24);
        assert!(id(r#""abc""#).held_bytes() == 3 && id("1.0").held_bytes() == 0);
    }
}
