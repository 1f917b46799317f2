//! A caller's id of the layer's own making (rule A5).

use http::HeaderValue;

/// A random UUID (RFC 9562, version 4): what a server would hand out, and as hard to guess.
pub(super) fn random_id() -> HeaderValue {
    let mut bytes = [0; 16];
    // There is no going on without: an id that can be guessed is somebody else's session.
    getrandom::fill(&mut bytes).expect("the operating system has random bytes");
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 0x0f] {
            text.extend(char::from_digit(digit.into(), 16));
        }
    }
    HeaderValue::from_str(&text).expect("hexadecimal digits and hyphens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a5_ids_of_the_layers_making_are_random_uuids() {
        let (one, other) = (random_id(), random_id());
        assert_ne!(one, other);
        let text = one.to_str().unwrap();
        assert_eq!(text.len(), 36);
        assert_eq!(&text[14..15], "4");
        assert!(text.split('-').map(str::len).eq([8, 4, 4, 4, 12]));
    }

    /// All of them but the six bits that say what they are.
    #[test]
    fn a5_every_bit_of_an_id_is_random() {
        let ids: Vec<_> = std::iter::repeat_with(|| {
            let id = random_id().to_str().unwrap().replace('-', "");
            u128::from_str_radix(&id, 16).unwrap()
        })
        .take(200)
        .collect();
        let (ones, zeros) = ids
            .iter()
            .fold((0, 0), |(one, zero), id| (one | id, zero | !id));
        let version = 0x0000_0000_0000_f000_c000_0000_0000_0000;
        assert_eq!(ones & zeros, !version);
        assert_eq!(ids[0] & version, 0x0000_0000_0000_4000_8000_0000_0000_0000);
    }
}
