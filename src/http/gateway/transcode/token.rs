//! The tokens of a JSON value whose grammar has been looked at (`scan`), with their places; texts are decoded here, and what
//! is wrong with one is found here. (protojson: internal/encoding/json.)

use std::borrow::Cow;

use super::number::is_part_of_word;
use crate::grpc::quoted;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    Null,
    Bool(bool),
    Number,
    Text(Cow<'a, str>),
    Object,
    ObjectEnd,
    Array,
    ArrayEnd,
    /// Nothing more.
    End,
}

#[derive(Clone, Debug)]
pub struct Token<'a> {
    pub kind: Kind<'a>,
    /// Where it begins.
    pub at: usize,
    /// As it stands.
    pub raw: &'a [u8],
}

pub struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    /// Of a text that is one JSON value.
    pub fn of(text: &'a [u8]) -> Self {
        Tokens { text, at: 0 }
    }

    /// The next token. Commas and colons are not given: they are where they belong.
    pub fn next(&mut self) -> Result<Token<'a>, String> {
        let first = self.peek();
        let at = self.at;
        let (kind, len) = match first {
            None => (Kind::End, 0),
            Some(b'{') => (Kind::Object, 1),
            Some(b'}') => (Kind::ObjectEnd, 1),
            Some(b'[') => (Kind::Array, 1),
            Some(b']') => (Kind::ArrayEnd, 1),
            Some(b'"') => {
                let (text, len) = self.text()?;
                (Kind::Text(text), len)
            }
            Some(letter) => {
                // At least one: whatever a byte is, it is passed.
                let len = self.text[at..].iter().take_while(|byte| is_part_of_word(**byte)).count().max(1);
                let kind = match letter {
                    b'n' => Kind::Null,
                    b't' => Kind::Bool(true),
                    b'f' => Kind::Bool(false),
                    _ => Kind::Number,
                };
                (kind, len)
            }
        };
        self.at = at + len;
        Ok(Token { kind, at, raw: &self.text[at..at + len] })
    }

    /// The first byte of the next token; None at the end.
    pub fn peek(&mut self) -> Option<u8> {
        let between = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':');
        self.at += self.text[self.at..].iter().take_while(between).count();
        self.text.get(self.at).copied()
    }

    /// The text that begins here, and its length as it stands.
    fn text(&self) -> Result<(Cow<'a, str>, usize), String> {
        let rest = &self.text[self.at + 1..];
        let plain = rest.iter().take_while(|byte| !matches!(byte, b'"' | b'\\')).count();
        let begin = self.utf8(&rest[..plain])?;
        if rest.get(plain) == Some(&b'"') {
            return Ok((Cow::Borrowed(begin), plain + 2));
        }
        let mut text = begin.to_owned();
        let mut at = plain;
        loop {
            match rest.get(at) {
                None => return Err(CUT.to_owned()),
                Some(b'"') => return Ok((Cow::Owned(text), at + 2)),
                Some(b'\\') => at += self.escape(&rest[at..], &mut text)?,
                Some(_) => {
                    let plain = rest[at..].iter().take_while(|byte| !matches!(byte, b'"' | b'\\')).count();
                    text.push_str(self.utf8(&rest[at..at + plain])?);
                    at += plain;
                }
            }
        }
    }

    fn utf8(&self, bytes: &'a [u8]) -> Result<&'a str, String> {
        std::str::from_utf8(bytes).map_err(|_| self.syntax(self.at, "invalid UTF-8 in string"))
    }

    /// What an escape at the beginning of `rest` stands for; gives its length.
    fn escape(&self, rest: &[u8], text: &mut String) -> Result<usize, String> {
        let letter = match rest.get(1) {
            None => return Err(CUT.to_owned()),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.escaped_number(rest, text),
            Some(byte) => char::from(*byte),
        };
        text.push(letter);
        Ok(2)
    }

    /// `\u` and four digits, or two of them that together are one letter (RFC 8259, section 7).
    fn escaped_number(&self, rest: &[u8], text: &mut String) -> Result<usize, String> {
        let number = |escape: &[u8]| {
            let digits = std::str::from_utf8(escape.get(2..6)?).ok()?;
            u16::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        };
        let Some(first) = number(rest) else { return Err(CUT.to_owned()) };
        if let Some(letter) = char::from_u32(first.into()) {
            text.push(letter);
            return Ok(6);
        }
        let Some(second) = rest.get(6..12) else { return Err(CUT.to_owned()) };
        let pair = number(second).filter(|_| second.starts_with(b"\\u")).and_then(|second| {
            let mut letters = char::decode_utf16([first, second]);
            letters.next()?.ok()
        });
        let Some(letter) = pair else {
            return Err(self.syntax(self.at, &format!("invalid escape code {} in string", quoted(second))));
        };
        text.push(letter);
        Ok(12)
    }

    /// A fault of what stands at a place.
    pub fn syntax(&self, at: usize, what: &str) -> String {
        format!("proto: syntax error {}: {what}", self.place(at))
    }

    pub fn unexpected(&self, token: &Token<'_>) -> String {
        self.syntax(token.at, &format!("unexpected token {}", String::from_utf8_lossy(token.raw)))
    }

    /// A fault of a field.
    pub fn fault(&self, at: usize, what: &str) -> String {
        format!("proto: {}: {what}", self.place(at))
    }

    /// Line and letter, counted from one.
    fn place(&self, at: usize) -> String {
        let before = &self.text[..at];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let letters: usize =
            before[begin..].utf8_chunks().map(|chunk| chunk.valid().chars().count() + chunk.invalid().len()).sum();
        format!("(line {line}:{})", letters + 1)
    }
}

const CUT: &str = "proto: unexpected EOF";

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &[u8]) -> Result<String, String> {
        match Tokens::of(json).next()?.kind {
            Kind::Text(text) => Ok(text.into_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn texts_are_decoded() {
        for (json, wanted) in [
            (r#""""#, ""),
            (r#""abc""#, "abc"),
            (r#""a\"\\\/\b\f\n\r\tz""#, "a\"\\/\u{8}\u{c}\n\r\tz"),
            (r#""\u0041\u00e9\u20AC""#, "Aé€"),
            (r#""\ud83d\ude00!""#, "😀!"),
            (r#""é\n😀""#, "é\n😀"),
        ] {
            assert_eq!(text(json.as_bytes()).as_deref(), Ok(wanted), "{json}");
        }
    }

    #[test]
    fn faults_of_texts_are_named() {
        let utf8 = "proto: syntax error (line 1:1): invalid UTF-8 in string";
        assert_eq!(text(b"\"a\xff\"").unwrap_err(), utf8);
        assert_eq!(text(b"\"\\n\xed\xa0\x80\"").unwrap_err(), utf8);
        assert_eq!(
            text(br#""\ud800\u0041 ""#).unwrap_err(),
            "proto: syntax error (line 1:1): invalid escape code \"\\\\u0041\" in string"
        );
        assert_eq!(
            text(br#""\udc00abcdef""#).unwrap_err(),
            "proto: syntax error (line 1:1): invalid escape code \"abcdef\" in string"
        );
        assert_eq!(text(br#""\ud800""#).unwrap_err(), "proto: unexpected EOF");
    }

    #[test]
    fn tokens_come_in_order_with_their_places() {
        let json = "{\n \"é\" : [ 1e5, null,true ,\"x\"] }";
        let mut tokens = Tokens::of(json.as_bytes());
        let mut found = Vec::new();
        loop {
            let token = tokens.next().unwrap();
            found.push((String::from_utf8_lossy(token.raw).into_owned(), tokens.place(token.at)));
            if token.kind == Kind::End {
                break;
            }
        }
        let found: Vec<(&str, &str)> = found.iter().map(|(raw, place)| (&raw[..], &place[..])).collect();
        assert_eq!(
            found,
            [
                ("{", "(line 1:1)"),
                ("\"é\"", "(line 2:2)"),
                ("[", "(line 2:8)"),
                ("1e5", "(line 2:10)"),
                ("null", "(line 2:15)"),
                ("true", "(line 2:20)"),
                ("\"x\"", "(line 2:26)"),
                ("]", "(line 2:29)"),
                ("}", "(line 2:31)"),
                ("", "(line 2:32)"),
            ]
        );
    }
}
