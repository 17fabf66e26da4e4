//! Base64 as protojson writes and reads it. (RFC 4648; Go: encoding/base64, which lets line ends be anywhere and does not
//! look at the bits beyond the last byte.)

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends bytes in the standard alphabet, padded.
pub fn encode(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len().div_ceil(3) * 4);
    let letter = |bits: u32| LETTERS[(bits & 63) as usize];
    let mut triples = bytes.chunks_exact(3);
    for triple in &mut triples {
        let bits = u32::from(triple[0]) << 16 | u32::from(triple[1]) << 8 | u32::from(triple[2]);
        out.extend_from_slice(&[letter(bits >> 18), letter(bits >> 12), letter(bits >> 6), letter(bits)]);
    }
    match *triples.remainder() {
        [a] => out.extend_from_slice(&[letter(u32::from(a) >> 2), letter(u32::from(a) << 4), b'=', b'=']),
        [a, b] => {
            let bits = u32::from(a) << 8 | u32::from(b);
            out.extend_from_slice(&[letter(bits >> 10), letter(bits >> 4), letter(bits << 2), b'=']);
        }
        _ => {}
    }
}

/// No letter of the alphabet.
const NONE: u8 = 0xff;

const fn values(extra: [u8; 2]) -> [u8; 256] {
    let mut values = [NONE; 256];
    let mut at = 0;
    while at < 62 {
        values[LETTERS[at] as usize] = at as u8;
        at += 1;
    }
    values[extra[0] as usize] = 62;
    values[extra[1] as usize] = 63;
    values
}

static STANDARD: [u8; 256] = values(*b"+/");
static URL: [u8; 256] = values(*b"-_");

/// Bytes of text in the standard alphabet or, if it has letters of that, in the URL-safe one; padded or, if its length is no
/// multiple of four, not.
///
/// # Errors
/// The place of what is wrong.
pub fn decode(text: &[u8]) -> Result<Vec<u8>, usize> {
    let url = text.iter().any(|byte| matches!(byte, b'-' | b'_'));
    let values = if url { &URL } else { &STANDARD };
    let padded = text.len().is_multiple_of(4);
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0u32, 0);
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        at += 1;
        match values[usize::from(byte)] {
            NONE if matches!(byte, b'\n' | b'\r') => {}
            NONE if byte == b'=' && padded => {
                end_of_padding(text, at, count)?;
                put_rest(&mut out, bits, count);
                return Ok(out);
            }
            NONE => return Err(at - 1),
            value => {
                bits = bits << 6 | u32::from(value);
                count += 1;
                if count == 4 {
                    out.extend_from_slice(&[(bits >> 16) as u8, (bits >> 8) as u8, bits as u8]);
                    (bits, count) = (0, 0);
                }
            }
        }
    }
    // Cut within four letters.
    if count == 1 || (count > 0 && padded) {
        return Err(at - count);
    }
    put_rest(&mut out, bits, count);
    Ok(out)
}

/// What follows the first `=`, which comes after `count` letters of four.
fn end_of_padding(text: &[u8], mut at: usize, count: usize) -> Result<(), usize> {
    let skip = |mut at: usize| {
        while matches!(text.get(at), Some(b'\n' | b'\r')) {
            at += 1;
        }
        at
    };
    match count {
        0 | 1 => return Err(at - 1),
        2 => {
            at = skip(at);
            match text.get(at) {
                None => return Err(text.len()),
                Some(b'=') => at += 1,
                Some(_) => return Err(at - 1),
            }
        }
        _ => {}
    }
    match skip(at) {
        end if end < text.len() => Err(end),
        _ => Ok(()),
    }
}

/// The bytes of two or three letters.
fn put_rest(out: &mut Vec<u8>, bits: u32, count: usize) {
    match count {
        2 => out.push((bits >> 4) as u8),
        3 => out.extend_from_slice(&[(bits >> 10) as u8, (bits >> 2) as u8]),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        encode(&mut out, bytes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_texts() {
        // RFC 4648, section 10.
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encoded(bytes.as_bytes()), text);
            assert_eq!(decode(text.as_bytes()).unwrap(), bytes.as_bytes());
            assert_eq!(decode(text.trim_end_matches('=').as_bytes()).unwrap(), bytes.as_bytes());
        }
        assert_eq!(encoded(&[0xfb, 0xff]), "+/8=");
        assert_eq!(decode(b"-_8=").unwrap(), [0xfb, 0xff]);
        assert_eq!(decode(b"-_8").unwrap(), [0xfb, 0xff]);
    }

    /// The verdicts and places are those of Go 1.26's encoding/base64.
    #[test]
    fn what_go_lets_through_and_what_not() {
        for (text, wanted) in [
            ("Zm9v\nZg==", Err(7)),
            ("Zm9v\r\nZ\n\ng==", Ok("foof")),
            ("Zh==", Ok("f")),
            ("Zg=", Err(2)),
            ("Zg", Ok("f")),
            ("Z", Err(0)),
            ("Zm9vZ", Err(4)),
            ("Z===", Err(1)),
            ("====", Err(0)),
            ("Zg=a", Err(2)),
            ("Zg==Zg==", Err(4)),
            ("Zm8=Zm8=", Err(4)),
            ("not base64! ", Err(3)),
            ("a+b-", Err(1)),
            ("\n\n\n\n", Ok("")),
            ("Zm9\n", Err(1)),
        ] {
            assert_eq!(decode(text.as_bytes()), wanted.map(|text: &str| text.as_bytes().to_vec()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode(encoded(&bytes).as_bytes()).unwrap(), bytes);
        }

        #[test]
        fn nothing_makes_it_panic(text in "[A-Za-z0-9+/=_\\-\n\r!]{0,40}") {
            let _ = decode(text.as_bytes());
        }
    }
}
