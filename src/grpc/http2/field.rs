//! A field of a header block: what kind it is, told once when it is read, so that a field that comes again by its
//! number in the table costs a look at one byte. Texts are shared and never a slice of what was read from the network.

use std::{fmt, ops::Deref, rc::Rc};

/// Bytes of a name or a value.
#[derive(Clone)]
pub enum Text {
    Fixed(&'static [u8]),
    Shared(Rc<[u8]>),
}

impl Text {
    pub const EMPTY: Text = Text::Fixed(b"");

    /// Whether both are one and the same, not only equal.
    fn is(&self, other: &Text) -> bool {
        std::ptr::eq::<[u8]>(&**self, &**other)
    }
}

impl Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Text::Fixed(bytes) => bytes,
            Text::Shared(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.escape_ascii().fmt(f)
    }
}

/// What a field is to the layers above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Method,
    Scheme,
    Path,
    Authority,
    /// A pseudo-header that is none of a request.
    Pseudo,
    Host,
    ContentType,
    ContentLength,
    Te,
    GrpcTimeout,
    GrpcEncoding,
    /// It belongs to a connection of HTTP/1.1 or is not spelt as a field may be: no request may have it.
    Forbidden,
    /// Anything else: metadata of the call.
    Metadata,
}

#[derive(Clone, Debug)]
pub struct Field {
    pub kind: Kind,
    pub name: Text,
    pub value: Text,
}

impl Field {
    /// With a name that has been looked at, `kind` being what it says.
    pub fn new(kind: Kind, name: Text, value: Text) -> Self {
        let kind = if is_value(&value) { kind } else { Kind::Forbidden };
        Field { kind, name, value }
    }

    /// What it counts for in the table and against the bound on a header list (RFC 7541, section 4.1).
    pub fn size(&self) -> usize {
        self.name.len() + self.value.len() + 32
    }

    pub fn is(&self, other: &Field) -> bool {
        self.name.is(&other.name) && self.value.is(&other.value)
    }
}

/// What a name says, with the name in memory that need not be allocated where it is a usual one.
pub fn name(bytes: &[u8]) -> (Kind, Text) {
    let (kind, fixed): (Kind, &'static [u8]) = match bytes {
        b":method" => (Kind::Method, b":method"),
        b":scheme" => (Kind::Scheme, b":scheme"),
        b":path" => (Kind::Path, b":path"),
        b":authority" => (Kind::Authority, b":authority"),
        b"host" => (Kind::Host, b"host"),
        b"content-type" => (Kind::ContentType, b"content-type"),
        b"content-length" => (Kind::ContentLength, b"content-length"),
        b"te" => (Kind::Te, b"te"),
        b"grpc-timeout" => (Kind::GrpcTimeout, b"grpc-timeout"),
        b"grpc-encoding" => (Kind::GrpcEncoding, b"grpc-encoding"),
        b"grpc-accept-encoding" => (Kind::Metadata, b"grpc-accept-encoding"),
        b"user-agent" => (Kind::Metadata, b"user-agent"),
        b"client-api-version" => (Kind::Metadata, b"client-api-version"),
        b"hasleader" => (Kind::Metadata, b"hasleader"),
        b"authorization" => (Kind::Metadata, b"authorization"),
        b"token" => (Kind::Metadata, b"token"),
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            return (Kind::Forbidden, Text::Shared(bytes.into()));
        }
        [b':', ..] => return (Kind::Pseudo, Text::Shared(bytes.into())),
        _ if is_name(bytes) => return (Kind::Metadata, Text::Shared(bytes.into())),
        _ => return (Kind::Forbidden, Text::Shared(bytes.into())),
    };
    (kind, Text::Fixed(fixed))
}

/// A token without capital letters (RFC 9110, section 5.6.2; RFC 9113, section 8.2.1).
fn is_name(bytes: &[u8]) -> bool {
    let letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(letter)
}

/// No control characters but tabs. Blanks at either end are let through, as Go does.
fn is_value(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| (byte >= b' ' && byte != 0x7f) || byte == b'\t')
}

/// The metadata of a call: the fields of its head that are not the protocol's own, as they were sent, in order. Cheap
/// to clone; a client that sends the same with every call costs one list for all of them.
#[derive(Clone, Default)]
pub struct Metadata(Option<Rc<[Field]>>);

impl Metadata {
    /// The value of the first field of this name, which is in small letters.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields().iter().find(|field| *field.name == *name.as_bytes()).map(|field| &*field.value)
    }

    /// With one field more.
    #[must_use]
    pub fn with(&self, field_name: &str, value: &[u8]) -> Self {
        let (kind, name) = name(field_name.as_bytes());
        let field = Field { kind, name, value: Text::Shared(value.into()) };
        Metadata(Some(self.fields().iter().cloned().chain([field]).collect()))
    }

    /// Of these names, in small letters, and values.
    pub fn of_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let field = |(field_name, value): (&str, &[u8])| {
            let (kind, name) = name(field_name.as_bytes());
            Field { kind, name, value: Text::Shared(value.into()) }
        };
        let fields: Rc<[Field]> = pairs.into_iter().map(field).collect();
        Metadata((!fields.is_empty()).then_some(fields))
    }

    pub(in crate::grpc) fn fields(&self) -> &[Field] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Of these fields, which are taken out. Where `last` has the same it is what is returned.
    pub(super) fn of(fields: &mut Vec<Field>, last: &Metadata) -> Self {
        let known = last.fields();
        if fields.len() == known.len() && fields.iter().zip(known).all(|(field, known)| field.is(known)) {
            fields.clear();
            return last.clone();
        }
        Metadata(Some(fields.drain(..).collect()))
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        f.debug_list().entries(self.fields().iter().map(|field| &field.name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_names_and_values() {
        let kind = |text: &str, value: &str| {
            let (kind, name) = name(text.as_bytes());
            assert_eq!(&*name, text.as_bytes());
            Field::new(kind, name, Text::Shared(value.as_bytes().into())).kind
        };
        assert_eq!(kind(":path", "/"), Kind::Path);
        assert_eq!(kind(":status", "200"), Kind::Pseudo);
        assert_eq!(kind("te", "trailers"), Kind::Te);
        assert_eq!(kind("token", "x"), Kind::Metadata);
        assert_eq!(kind("x-1.y_z", "\t \u{fc}~"), Kind::Metadata);
        for (name, value) in
            [("Token", ""), ("", ""), ("a b", ""), ("a:", ""), ("a", "\n"), ("a", "\u{7f}"), ("te", "\0")]
        {
            assert_eq!(kind(name, value), Kind::Forbidden, "{name}: {value}");
        }
    }

    #[test]
    fn metadata_that_comes_again_is_the_same_list() {
        let field = Field { kind: Kind::Metadata, name: Text::Fixed(b"a"), value: Text::Shared(b"b"[..].into()) };
        let first = Metadata::of(&mut vec![field.clone()], &Metadata::default());
        assert_eq!(first.get("a"), Some(&b"b"[..]));
        assert_eq!(first.get("b"), None);
        let mut again = vec![field.clone()];
        let second = Metadata::of(&mut again, &first);
        assert!(again.is_empty());
        assert!(std::ptr::eq(first.fields(), second.fields()));
        assert!(!std::ptr::eq(first.fields(), Metadata::of(&mut vec![field.clone(), field], &first).fields()));
        assert_eq!(Metadata::of(&mut Vec::new(), &first).get("a"), None);
        assert_eq!(first.with("c", b"d").get("c"), Some(&b"d"[..]));
    }

    #[test]
    fn metadata_of_pairs_has_them_all() {
        let pairs = Metadata::of_pairs([("token", &b"a"[..]), ("x", b"1"), ("x", b"2")]);
        assert_eq!((pairs.get("token"), pairs.get("x"), pairs.get("y")), (Some(&b"a"[..]), Some(&b"1"[..]), None));
        assert!(Metadata::of_pairs([]).0.is_none());
    }
}
