//! The head of a request, put together from the fields of its block, and the rules that make one malformed. What the
//! fields say to gRPC is judged elsewhere. (RFC 9113, sections 8.1 to 8.3.)

use smallvec::SmallVec;

use super::field::{Field, Kind, Metadata, Text};

/// What a request begins with.
#[derive(Debug)]
pub struct Head {
    pub method: Text,
    pub path: Text,
    pub authority: Option<Text>,
    /// The first `host`.
    pub host: Option<Text>,
    /// How many `host` fields there are.
    pub hosts: usize,
    pub content_types: SmallVec<[Text; 1]>,
    /// The first of each, where there are several.
    pub timeout: Option<Text>,
    pub encoding: Option<Text>,
    pub metadata: Metadata,
    pub content_length: Option<u64>,
}

/// Why there is no request although its block could be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It breaks a rule.
    Malformed,
    /// Its fields are more than is let in.
    TooLarge,
}

/// A head whose fields are coming in.
pub struct Builder<'a> {
    method: Option<Text>,
    path: Option<Text>,
    has_scheme: bool,
    authority: Option<Text>,
    host: Option<Text>,
    hosts: usize,
    content_types: SmallVec<[Text; 1]>,
    timeout: Option<Text>,
    encoding: Option<Text>,
    content_length: Option<u64>,
    metadata: &'a mut Vec<Field>,
    /// A field that is no pseudo-header has come.
    regular: bool,
    malformed: bool,
    room: usize,
    too_large: bool,
}

impl<'a> Builder<'a> {
    /// For a head of at most `room` bytes, as HTTP/2 counts them. `metadata` is where that is gathered; empty.
    pub fn new(room: usize, metadata: &'a mut Vec<Field>) -> Self {
        debug_assert!(metadata.is_empty());
        Builder {
            method: None,
            path: None,
            has_scheme: false,
            authority: None,
            host: None,
            hosts: 0,
            content_types: SmallVec::new(),
            timeout: None,
            encoding: None,
            content_length: None,
            metadata,
            regular: false,
            malformed: false,
            room,
            too_large: false,
        }
    }

    pub fn add(&mut self, field: &Field) {
        match self.room.checked_sub(field.size()) {
            Some(room) if !self.too_large => self.room = room,
            // The rest is decoded for the table's sake and kept nowhere.
            _ => {
                self.too_large = true;
                return;
            }
        }
        let pseudo = matches!(field.kind, Kind::Method | Kind::Scheme | Kind::Path | Kind::Authority | Kind::Pseudo);
        self.malformed |= pseudo && self.regular;
        self.regular |= !pseudo;
        let value = &field.value;
        match field.kind {
            Kind::Method => self.malformed |= self.method.replace(value.clone()).is_some(),
            Kind::Path => self.malformed |= value.is_empty() || self.path.replace(value.clone()).is_some(),
            Kind::Scheme => self.malformed |= std::mem::replace(&mut self.has_scheme, true),
            Kind::Authority => self.malformed |= self.authority.replace(value.clone()).is_some(),
            Kind::Pseudo | Kind::Forbidden => self.malformed = true,
            Kind::Host => {
                self.hosts += 1;
                self.host.get_or_insert_with(|| value.clone());
            }
            Kind::ContentType => self.content_types.push(value.clone()),
            Kind::ContentLength => {
                let length = length(value);
                self.malformed |= length.is_none() || self.content_length.is_some_and(|had| Some(had) != length);
                self.content_length = length;
            }
            Kind::Te => self.malformed |= **value != *b"trailers",
            Kind::GrpcTimeout => drop(self.timeout.get_or_insert_with(|| value.clone())),
            Kind::GrpcEncoding => drop(self.encoding.get_or_insert_with(|| value.clone())),
            Kind::Metadata => self.metadata.push(field.clone()),
        }
    }

    /// The head, its metadata shared with `last` where that is the same.
    pub fn finish(mut self, last: &mut Metadata) -> Result<Head, Unfit> {
        let method = self.method.take();
        let path = self.path.take();
        let fit = match (method, path) {
            _ if self.too_large => Err(Unfit::TooLarge),
            (Some(method), Some(path)) if !self.malformed && self.has_scheme => Ok((method, path)),
            _ => Err(Unfit::Malformed),
        };
        let (method, path) = fit.inspect_err(|_| self.metadata.clear())?;
        *last = Metadata::of(self.metadata, last);
        Ok(Head {
            method,
            path,
            authority: self.authority,
            host: self.host,
            hosts: self.hosts,
            content_types: self.content_types,
            timeout: self.timeout,
            encoding: self.encoding,
            metadata: last.clone(),
            content_length: self.content_length,
        })
    }

    /// The end of a block of trailers: nothing of them is kept.
    pub fn finish_trailers(self) -> Result<(), Unfit> {
        self.metadata.clear();
        let pseudo = self.method.is_some() || self.path.is_some() || self.has_scheme || self.authority.is_some();
        match (self.too_large, self.malformed || pseudo) {
            (true, _) => Err(Unfit::TooLarge),
            (false, true) => Err(Unfit::Malformed),
            (false, false) => Ok(()),
        }
    }
}

/// RFC 9110, section 8.6.
fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
