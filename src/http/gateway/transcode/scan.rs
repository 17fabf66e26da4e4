//! Where a JSON value ends in bytes that come piece by piece, and what is wrong with one that is none: one byte after
//! another, in the states and words of Go's encoding/json. It looks at no number's size and at no letter's encoding.
//! (Go: encoding/json/scanner.go, stream.go.)

use std::fmt::Write as _;

/// Objects and arrays within one another (Go: maxNestingDepth).
const DEPTH_MAX: usize = 10_000;

/// What has been found in a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scan {
    /// All of it belongs to a value that goes on, or is space before one.
    More,
    /// The value ends after so many bytes.
    Value(usize),
    Bad(String),
}

/// What the bytes were when no more come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Space at most.
    Nothing,
    /// A value that nothing but the end could end.
    Value,
    /// A part of a value.
    Cut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    ValueOrEnd,
    Name,
    NameOrEnd,
    AfterValue,
    Text,
    TextEscape,
    /// So many digits of four have come.
    TextEscapeHex(u8),
    Negative,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    /// Within a word, of which so many letters have come.
    Word(&'static str, u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    Name,
    Member,
    Array,
}

#[derive(Clone, Debug)]
pub struct Scanner {
    state: State,
    within: Vec<Within>,
    begun: bool,
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner { state: State::Value, within: Vec::new(), begun: false }
    }
}

/// What a byte is to the value.
enum Step {
    Goes,
    /// It is the value's last.
    Ends,
    /// The value has ended before it.
    Ended,
    Bad(&'static str),
}

impl Scanner {
    /// Goes on with `bytes`, as far as the value's end. After that, or after a fault, it is to be made anew.
    pub fn scan(&mut self, bytes: &[u8]) -> Scan {
        let mut at = 0;
        while at < bytes.len() {
            if self.state == State::Text {
                // Most bytes are of texts.
                at += bytes[at..].iter().take_while(|byte| **byte >= b' ' && !matches!(byte, b'"' | b'\\')).count();
                if at == bytes.len() {
                    break;
                }
            }
            let byte = bytes[at];
            self.begun |= !is_space(byte);
            match self.step(byte) {
                Step::Goes => at += 1,
                Step::Ends => return Scan::Value(at + 1),
                Step::Ended => return Scan::Value(at),
                Step::Bad(context) => return Scan::Bad(format!("invalid character {} {context}", quoted(byte))),
            }
        }
        Scan::More
    }

    /// No more bytes come.
    pub fn end(&mut self) -> End {
        if !self.begun {
            return End::Nothing;
        }
        match self.step(b' ') {
            Step::Ended => End::Value,
            _ => End::Cut,
        }
    }

    fn step(&mut self, byte: u8) -> Step {
        match self.state {
            State::Value => self.begin_value(byte),
            State::ValueOrEnd if byte == b']' => self.after_value(byte),
            State::ValueOrEnd => self.begin_value(byte),
            State::NameOrEnd if byte == b'}' => {
                self.set_within(Within::Member);
                self.after_value(byte)
            }
            State::Name | State::NameOrEnd => match byte {
                _ if is_space(byte) => Step::Goes,
                b'"' => self.go(State::Text),
                _ => Step::Bad("looking for beginning of object key string"),
            },
            State::AfterValue => self.after_value(byte),
            State::Text => match byte {
                b'"' => self.go(State::AfterValue),
                b'\\' => self.go(State::TextEscape),
                ..b' ' => Step::Bad("in string literal"),
                _ => Step::Goes,
            },
            State::TextEscape => match byte {
                b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.go(State::Text),
                b'u' => self.go(State::TextEscapeHex(0)),
                _ => Step::Bad("in string escape code"),
            },
            State::TextEscapeHex(had) => match byte.is_ascii_hexdigit() {
                true if had == 3 => self.go(State::Text),
                true => self.go(State::TextEscapeHex(had + 1)),
                false => Step::Bad("in \\u hexadecimal character escape"),
            },
            State::Negative => match byte {
                b'0' => self.go(State::Zero),
                b'1'..=b'9' => self.go(State::Digits),
                _ => Step::Bad("in numeric literal"),
            },
            State::Digits if byte.is_ascii_digit() => Step::Goes,
            State::Digits | State::Zero => match byte {
                b'.' => self.go(State::Point),
                b'e' | b'E' => self.go(State::Exponent),
                _ => self.after_value(byte),
            },
            State::Point => match byte.is_ascii_digit() {
                true => self.go(State::Fraction),
                false => Step::Bad("after decimal point in numeric literal"),
            },
            State::Fraction => match byte {
                b'0'..=b'9' => Step::Goes,
                b'e' | b'E' => self.go(State::Exponent),
                _ => self.after_value(byte),
            },
            State::Exponent if matches!(byte, b'+' | b'-') => self.go(State::ExponentSign),
            State::Exponent | State::ExponentSign => match byte.is_ascii_digit() {
                true => self.go(State::ExponentDigits),
                false => Step::Bad("in exponent of numeric literal"),
            },
            State::ExponentDigits => match byte.is_ascii_digit() {
                true => Step::Goes,
                false => self.after_value(byte),
            },
            State::Word(word, had) => self.in_word(word, had, byte),
        }
    }

    fn go(&mut self, state: State) -> Step {
        self.state = state;
        Step::Goes
    }

    fn begin_value(&mut self, byte: u8) -> Step {
        match byte {
            _ if is_space(byte) => Step::Goes,
            b'{' => self.enter(Within::Name, State::NameOrEnd),
            b'[' => self.enter(Within::Array, State::ValueOrEnd),
            b'"' => self.go(State::Text),
            b'-' => self.go(State::Negative),
            b'0' => self.go(State::Zero),
            b'1'..=b'9' => self.go(State::Digits),
            b't' => self.go(State::Word("true", 1)),
            b'f' => self.go(State::Word("false", 1)),
            b'n' => self.go(State::Word("null", 1)),
            _ => Step::Bad("looking for beginning of value"),
        }
    }

    fn enter(&mut self, within: Within, state: State) -> Step {
        if self.within.len() == DEPTH_MAX {
            return Step::Bad("exceeded max depth");
        }
        self.within.push(within);
        self.go(state)
    }

    fn set_within(&mut self, within: Within) {
        *self.within.last_mut().expect("an object is open") = within;
    }

    fn after_value(&mut self, byte: u8) -> Step {
        let Some(within) = self.within.last() else { return Step::Ended };
        if is_space(byte) {
            return self.go(State::AfterValue);
        }
        match (within, byte) {
            (Within::Name, b':') => {
                self.set_within(Within::Member);
                self.go(State::Value)
            }
            (Within::Name, _) => Step::Bad("after object key"),
            (Within::Member, b',') => {
                self.set_within(Within::Name);
                self.go(State::Name)
            }
            (Within::Array, b',') => self.go(State::Value),
            (Within::Member, b'}') | (Within::Array, b']') => {
                self.within.pop();
                self.state = State::AfterValue;
                if self.within.is_empty() { Step::Ends } else { Step::Goes }
            }
            (Within::Member, _) => Step::Bad("after object key:value pair"),
            (Within::Array, _) => Step::Bad("after array element"),
        }
    }

    fn in_word(&mut self, word: &'static str, had: u8, byte: u8) -> Step {
        let letters = word.as_bytes();
        if letters[usize::from(had)] == byte {
            let whole = usize::from(had) + 1 == letters.len();
            return self.go(if whole { State::AfterValue } else { State::Word(word, had + 1) });
        }
        Step::Bad(match (word, had) {
            ("true", 1) => "in literal true (expecting 'r')",
            ("true", 2) => "in literal true (expecting 'u')",
            ("true", _) => "in literal true (expecting 'e')",
            ("false", 1) => "in literal false (expecting 'a')",
            ("false", 2) => "in literal false (expecting 'l')",
            ("false", 3) => "in literal false (expecting 's')",
            ("false", _) => "in literal false (expecting 'e')",
            (_, 1) => "in literal null (expecting 'u')",
            _ => "in literal null (expecting 'l')",
        })
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// A byte in single quotes, taken for the letter of that number (Go: quoteChar, strconv.Quote).
fn quoted(byte: u8) -> String {
    let mut out = String::from("'");
    match byte {
        b'\'' => out.push_str("\\'"),
        b'\\' => out.push_str("\\\\"),
        7 => out.push_str("\\a"),
        8 => out.push_str("\\b"),
        9 => out.push_str("\\t"),
        10 => out.push_str("\\n"),
        11 => out.push_str("\\v"),
        12 => out.push_str("\\f"),
        13 => out.push_str("\\r"),
        0..b' ' | 0x7f => _ = write!(out, "\\x{byte:02x}"),
        0x80..=0xa0 | 0xad => _ = write!(out, "\\u{byte:04x}"),
        _ => out.push(char::from(byte)),
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of a text that comes at once: how it scans, and what its end makes of it.
    fn scanned(text: &[u8]) -> (Scan, Option<End>) {
        let mut scanner = Scanner::default();
        let scan = scanner.scan(text);
        let end = (scan == Scan::More).then(|| scanner.end());
        (scan, end)
    }

    #[test]
    fn a_value_ends_where_it_ends() {
        for (text, end) in [
            ("{}", 2),
            (" {\"a\":[1,{\"b\":null}]} {}", 21),
            ("[]x", 2),
            ("5 ", 1),
            ("5x", 1),
            ("\"a\\u00e9\\\"\" ", 11),
            ("true,", 4),
            ("-1.5e+3]", 7),
            ("{\"key\":\"\"}trailing", 10),
        ] {
            assert_eq!(scanned(text.as_bytes()).0, Scan::Value(end), "{text}");
        }
    }

    #[test]
    fn what_only_the_end_ends() {
        for (text, end) in [
            ("", End::Nothing),
            (" \n\t", End::Nothing),
            ("5", End::Value),
            ("null", End::Value),
            ("\"a\"", End::Value),
            ("{", End::Cut),
            ("{\"a\"", End::Cut),
            ("[1", End::Cut),
            ("tru", End::Cut),
            ("-", End::Cut),
            ("\"a", End::Cut),
        ] {
            assert_eq!(scanned(text.as_bytes()), (Scan::More, Some(end)), "{text}");
        }
    }

    /// The words are those of Go 1.26's encoding/json.
    #[test]
    fn faults_are_named_as_go_names_them() {
        for (text, fault) in [
            ("junk", "'j' looking for beginning of value"),
            ("{a", "'a' looking for beginning of object key string"),
            ("{,", "',' looking for beginning of object key string"),
            ("{\"a\" 1", "'1' after object key"),
            ("{\"a\":1 \"b\"", "'\"' after object key:value pair"),
            ("{\"a\":1,}", "'}' looking for beginning of object key string"),
            ("[1 2", "'2' after array element"),
            ("[1,]", "']' looking for beginning of value"),
            ("\"\n\"", "'\\n' in string literal"),
            ("\"\\x\"", "'x' in string escape code"),
            ("\"\\u12g\"", "'g' in \\u hexadecimal character escape"),
            ("-x", "'x' in numeric literal"),
            ("[01]", "'1' after array element"),
            ("1.x", "'x' after decimal point in numeric literal"),
            ("1ex", "'x' in exponent of numeric literal"),
            ("1e+x", "'x' in exponent of numeric literal"),
            ("trux", "'x' in literal true (expecting 'e')"),
            ("fx", "'x' in literal false (expecting 'a')"),
            ("nulx", "'x' in literal null (expecting 'l')"),
            ("'", "'\\'' looking for beginning of value"),
            ("\\", "'\\\\' looking for beginning of value"),
            ("\u{1}", "'\\x01' looking for beginning of value"),
            ("é", "'Ã' looking for beginning of value"),
        ] {
            assert_eq!(scanned(text.as_bytes()).0, Scan::Bad(format!("invalid character {fault}")), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let text = "[".repeat(DEPTH_MAX + 1);
        assert_eq!(scanned(text.as_bytes()).0, Scan::Bad("invalid character '[' exceeded max depth".into()));
        let text = ["[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX)].concat();
        assert_eq!(scanned(text.as_bytes()).0, Scan::Value(2 * DEPTH_MAX));
    }

    proptest! {
        #[test]
        fn pieces_are_as_good_as_the_whole(
            text in "[\\[\\]{}:,\"\\\\u0-9a-f.eE+\\-ntrl \n]{0,40}",
            cut in 0usize..40,
        ) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let mut scanner = Scanner::default();
            let in_pieces = match scanner.scan(&bytes[..cut]) {
                Scan::More => match scanner.scan(&bytes[cut..]) {
                    Scan::Value(end) => Scan::Value(cut + end),
                    other => other,
                },
                other => other,
            };
            let whole = scanned(bytes).0;
            prop_assert_eq!(&in_pieces, &whole);
            // What it takes for a value is one.
            if let Scan::Value(end) = whole {
                prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&bytes[..end]).is_ok());
            }
        }

        #[test]
        fn values_are_found(value in value()) {
            let text = serde_json::to_string(&value).unwrap();
            let padded = format!("{text} ");
            prop_assert_eq!(scanned(padded.as_bytes()).0, Scan::Value(text.len()));
        }
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            any::<f64>().prop_map(serde_json::Value::from),
            any::<String>().prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
                proptest::collection::hash_map(".{0,5}", inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
