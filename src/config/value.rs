//! Single values as Go reads and writes them: numbers with their base prefixes, truth, durations with units. Manifests
//! written for etcd lean on these forms, so they are followed to the letter. (Go: packages strconv, time, flag.)

/// Why Go's `flag` would not take a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadNumber {
    Syntax,
    Range,
}

impl BadNumber {
    /// In the words of package flag.
    pub fn of_flag(self) -> &'static str {
        match self {
            BadNumber::Syntax => "parse error",
            BadNumber::Range => "value out of range",
        }
    }

    /// In the words of package strconv.
    pub fn of_strconv(self) -> &'static str {
        match self {
            BadNumber::Syntax => "invalid syntax",
            BadNumber::Range => "value out of range",
        }
    }
}

/// `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// `strconv.ParseUint` with base 0: `0x`, `0o`, `0b` and a leading `0` tell the base, underscores may part digits.
pub fn parse_uint(text: &str) -> Result<u64, BadNumber> {
    let (digits, base) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', b'o' | b'O', ..] => (&text[2..], 8),
        [b'0', b'b' | b'B', ..] => (&text[2..], 2),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    // An underscore stands between two digits; the base's prefix counts as one.
    let mut after_digit = base != 10;
    let mut value: Option<u64> = Some(0);
    let mut seen = false;
    for letter in digits.chars() {
        if letter == '_' {
            if !after_digit {
                return Err(BadNumber::Syntax);
            }
            after_digit = false;
            continue;
        }
        let digit = letter.to_digit(base).ok_or(BadNumber::Syntax)?;
        value = value.and_then(|value| value.checked_mul(base as u64)?.checked_add(digit as u64));
        after_digit = true;
        seen = true;
    }
    if !seen || !after_digit {
        return Err(BadNumber::Syntax);
    }
    value.ok_or(BadNumber::Range)
}

/// `strconv.ParseInt` with base 0.
pub fn parse_int(text: &str) -> Result<i64, BadNumber> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = i128::from(parse_uint(digits)?);
    let value = if negative { -magnitude } else { magnitude };
    i64::try_from(value).map_err(|_| BadNumber::Range)
}

const NANOSECONDS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// `time.ParseDuration`, in nanoseconds; the error is Go's text.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, after) = rest.split_at(end);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => {
                let end = after.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(after.len());
                after.split_at(end)
            }
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after.find(|letter: char| letter == '.' || letter.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let Some((_, scale)) = NANOSECONDS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total += whole.checked_mul(i128::from(*scale)).ok_or_else(invalid)?;
        // Beyond a nanosecond nothing is kept, so a fraction's first nineteen digits decide.
        let fraction = &fraction[..fraction.len().min(19)];
        if !fraction.is_empty() {
            let digits: i128 = fraction.parse().map_err(|_| invalid())?;
            total += digits * i128::from(*scale) / 10_i128.pow(fraction.len() as u32);
        }
        if total > i128::from(i64::MAX) + i128::from(negative) {
            return Err(invalid());
        }
        rest = after;
    }
    Ok(if negative { (-total) as i64 } else { total as i64 })
}

/// `time.Duration.String`.
pub fn format_duration(nanoseconds: i64) -> String {
    let magnitude = nanoseconds.unsigned_abs();
    let sign = if nanoseconds < 0 { "-" } else { "" };
    match magnitude {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{magnitude}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(magnitude, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(magnitude, 1_000_000)),
        _ => {
            let minutes = magnitude / 60_000_000_000;
            let seconds = decimal(magnitude % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// `value / unit` without trailing zeros.
fn decimal(value: u64, unit: u64) -> String {
    let fraction = value % unit;
    if fraction == 0 {
        return (value / unit).to_string();
    }
    let width = unit.ilog10() as usize;
    let fraction = format!("{fraction:0width$}");
    format!("{}.{}", value / unit, fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, value) in
            [("0", 0), ("10", 10), ("0x10", 16), ("010", 8), ("0b11", 3), ("0o17", 15), ("1_000", 1000)]
        {
            assert_eq!(parse_uint(text), Ok(value), "{text}");
        }
        assert_eq!(parse_uint("0_7"), Ok(7));
        for text in ["", "x", "-1", "+1", "1e3", "1.5", "_1", "1_", "1__0", "0x", "08", " 1", "0x_"] {
            assert_eq!(parse_uint(text), Err(BadNumber::Syntax), "{text}");
        }
        assert_eq!(parse_uint("18446744073709551616"), Err(BadNumber::Range));
        assert_eq!(parse_int("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_int("9223372036854775808"), Err(BadNumber::Range));
        assert_eq!(parse_int("+7"), Ok(7));
        assert_eq!(parse_int("--7"), Err(BadNumber::Syntax));
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let second = 1_000_000_000;
        for (text, value) in [
            ("0", 0),
            ("5s", 5 * second),
            ("1h30m", 5400 * second),
            ("1.5h", 5400 * second),
            (".5s", second / 2),
            ("1.s", second),
            ("-1m", -60 * second),
            ("+3ms", 3_000_000),
            ("1µs", 1_000),
            ("2h0m0s", 7200 * second),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(parse_duration(text), Ok(value), "{text}");
        }
        for (text, error) in [
            ("xx", "time: invalid duration \"xx\""),
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            (".s", "time: invalid duration \".s\""),
            ("-5", "time: missing unit in duration \"-5\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
        ] {
            assert_eq!(parse_duration(text), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (value, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (100_000_000, "100ms"),
            (5_000_000_000, "5s"),
            (60_000_000_000, "1m0s"),
            (7_200_000_000_000, "2h0m0s"),
            (-1_500_000_000, "-1.5s"),
        ] {
            assert_eq!(format_duration(value), text);
        }
    }

    proptest! {
        #[test]
        fn a_written_duration_reads_back(nanoseconds: i64) {
            prop_assert_eq!(parse_duration(&format_duration(nanoseconds)), Ok(nanoseconds));
        }

        #[test]
        fn nothing_makes_them_panic(text in "\\PC*") {
            let _ = (parse_uint(&text), parse_int(&text), parse_duration(&text), parse_bool(&text));
        }
    }
}
