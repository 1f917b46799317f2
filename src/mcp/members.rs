//! The members of a JSON object, as they stand.
//!
//! What nobody asks for is skipped, not parsed: a server may well put something beside it that other
//! parsers read and this one would not, such as half of an emoji, `1e999`, or brackets 200 deep.

use std::{borrow::Cow, fmt};

use serde_core::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::id::plain_string;

/// The members with these names, or `None` if the text is no object. Of members with the same name
/// the last one counts, as in all JSON parsers.
pub(crate) fn members<'a, const N: usize>(
    object: &'a str,
    names: [&str; N],
) -> Option<[Option<&'a RawValue>; N]> {
    let mut json = serde_json::Deserializer::from_str(object);
    let members = json.deserialize_map(MembersVisitor(names)).ok()?;
    json.end().ok()?;
    Some(members)
}

/// The text of a JSON string, borrowed unless it has escapes; `None` for anything else.
pub(crate) fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    match plain_string(value.get()) {
        Some(string) => Some(string.into()),
        None => serde_json::from_str::<String>(value.get())
            .ok()
            .map(Cow::from),
    }
}

struct MembersVisitor<'n, const N: usize>([&'n str; N]);

impl<'de, const N: usize> Visitor<'de> for MembersVisitor<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut members = [None; N];
        while let Some(place) = map.next_key_seed(Place(&self.0))? {
            match place {
                Some(place) => members[place] = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(members)
    }
}

/// Which of the names it is.
struct Place<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        // As bytes, since JSON has names that are no Unicode.
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Place<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_bytes<E>(self, name: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|it| it.as_bytes() == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c4_members_are_found_by_name_whatever_is_beside_them() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for beside in ["1e999", r#""\ud800""#, &deep, &"9".repeat(500)] {
            let object = format!(r#"{{"\ud83d":0,"x":{beside},"a":1,"\u0062":"\u0062","a":2}}"#);
            let [a, b, c] = members(&object, ["a", "b", "c"]).unwrap();
            assert_eq!(a.map(RawValue::get), Some("2"), "{beside}");
            assert_eq!(b.and_then(string).as_deref(), Some("b"), "{beside}");
            assert!(c.is_none());
        }
        assert!(members("[1]", ["a"]).is_none());
        assert!(members(r#"{"a":1"#, ["a"]).is_none());
    }
}
