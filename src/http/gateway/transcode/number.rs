//! Integers as JSON may spell them: 1e3 and 10.0 are some, 1.5 is none. (protojson: internal/encoding/json.)

/// What may not follow a number or a word without being part of it.
pub fn is_part_of_word(byte: u8) -> bool {
    matches!(byte, b'-' | b'+' | b'.' | b'_') || byte.is_ascii_alphanumeric()
}

/// Bytes of the number at the beginning of a text, if there is one.
pub fn len(text: &[u8]) -> Option<usize> {
    let parts = Parts::of(text)?;
    match text.get(parts.len) {
        Some(byte) if is_part_of_word(*byte) => None,
        _ => Some(parts.len),
    }
}

/// A number that is a whole one and fits into an int64.
pub fn int(text: &[u8]) -> Option<i64> {
    let (negative, digits) = Parts::of(text)?.whole()?;
    digits.iter().try_fold(0i64, |value, digit| {
        let digit = i64::from(digit - b'0');
        let value = value.checked_mul(10)?;
        if negative { value.checked_sub(digit) } else { value.checked_add(digit) }
    })
}

pub fn uint(text: &[u8]) -> Option<u64> {
    let (negative, digits) = Parts::of(text)?.whole()?;
    if negative {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

/// What a number consists of.
struct Parts<'a> {
    negative: bool,
    /// Without a leading zero: empty if it is zero.
    whole: &'a [u8],
    /// Without zeros at its end.
    fraction: &'a [u8],
    /// With its sign; empty if there is none.
    exponent: &'a [u8],
    len: usize,
}

impl<'a> Parts<'a> {
    fn of(text: &'a [u8]) -> Option<Self> {
        let digits = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let negative = text.first() == Some(&b'-');
        let mut at = usize::from(negative);
        let whole = match text.get(at)? {
            b'0' => {
                at += 1;
                &text[at..at]
            }
            b'1'..=b'9' => {
                let from = at;
                at += digits(at);
                &text[from..at]
            }
            _ => return None,
        };
        let mut fraction = &text[at..at];
        if text.get(at) == Some(&b'.') && text.get(at + 1).is_some_and(u8::is_ascii_digit) {
            let until = at + 1 + digits(at + 1);
            fraction = text[at + 1..until].trim_end_zeros();
            at = until;
        }
        let mut exponent = &text[at..at];
        if matches!(text.get(at), Some(b'e' | b'E')) && at + 1 < text.len() {
            let from = at + 1;
            let sign = usize::from(matches!(text[from], b'+' | b'-'));
            if from + sign == text.len() && sign == 1 {
                return None;
            }
            at = from + sign + digits(from + sign);
            exponent = &text[from..at];
        }
        Some(Parts { negative, whole, fraction, exponent, len: at })
    }

    /// Its sign and digits, if it is a whole number of no more digits than a uint64 may have; no digits are zero.
    fn whole(&self) -> Option<(bool, Vec<u8>)> {
        if self.whole.is_empty() && self.fraction.is_empty() {
            return Some((false, Vec::new()));
        }
        let exponent: i64 = match self.exponent {
            [] => 0,
            text => std::str::from_utf8(text).ok()?.parse::<i32>().ok()?.into(),
        };
        const DIGITS_MAX: i64 = 20;
        if exponent >= 0 {
            if self.fraction.len() as i64 > exponent || self.whole.len() as i64 + exponent > DIGITS_MAX {
                return None;
            }
            let mut digits = [self.whole, self.fraction].concat();
            digits.resize(self.whole.len() + exponent as usize, b'0');
            return Some((self.negative, digits));
        }
        let kept = usize::try_from(self.whole.len() as i64 + exponent).ok()?;
        let shifted_out = &self.whole[kept..];
        if !self.fraction.is_empty() || shifted_out.iter().any(|digit| *digit != b'0') {
            return None;
        }
        Some((self.negative, self.whole[..kept].to_vec()))
    }
}

trait TrimZeros {
    fn trim_end_zeros(&self) -> &Self;
}

impl TrimZeros for [u8] {
    fn trim_end_zeros(&self) -> &[u8] {
        let kept = self.iter().rposition(|byte| *byte != b'0').map_or(0, |at| at + 1);
        &self[..kept]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whole_numbers_in_any_spelling() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("0.0", Some(0)),
            ("0e9", Some(0)),
            ("7", Some(7)),
            ("-12", Some(-12)),
            ("1.0", Some(1)),
            ("1e3", Some(1000)),
            ("1E+3", Some(1000)),
            ("1.50e1", Some(15)),
            ("0.5e1", Some(5)),
            ("100e-2", Some(1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("99999999999999999999", None),
            ("1.5", None),
            ("5e-1", None),
            ("1e99", None),
            ("1e99999999999", None),
            ("1.25e1", None),
        ] {
            assert_eq!(int(text.as_bytes()), wanted, "{text}");
            assert_eq!(len(text.as_bytes()), Some(text.len()), "{text}");
        }
        assert_eq!(uint(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(uint(b"18446744073709551616"), None);
        assert_eq!((uint(b"-1"), uint(b"-0")), (None, Some(0)));
    }

    #[test]
    fn where_a_number_ends() {
        for (text, wanted) in [
            ("5 6", Some(1)),
            ("5,", Some(1)),
            ("5}", Some(1)),
            ("-", None),
            ("", None),
            ("+1", None),
            ("01", None),
            ("1.", None),
            ("1.x", None),
            ("1e", None),
            ("1e+", None),
            ("1_0", None),
            ("x", None),
        ] {
            assert_eq!(len(text.as_bytes()), wanted, "{text}");
        }
    }

    proptest! {
        #[test]
        fn plain_integers_are_themselves(value: i64, other: u64) {
            prop_assert_eq!(int(value.to_string().as_bytes()), Some(value));
            prop_assert_eq!(uint(other.to_string().as_bytes()), Some(other));
        }

        #[test]
        fn nothing_makes_them_panic(text in "[-+0-9.eE_ ]{0,30}") {
            let _ = (int(text.as_bytes()), uint(text.as_bytes()), len(text.as_bytes()));
        }
    }
}
