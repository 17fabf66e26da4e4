//! Compression of messages: gzip or none. A caller that compresses is answered compressed, as grpc-go does.

use std::io::{self, Read, Write};

use bytes::{Bytes, BytesMut};
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};

use crate::error::{Code, Status};
use crate::wire::frame::PREFIX_BYTES;

/// What a call's messages may be compressed with, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
}

/// Decompresses a message, never to more than one byte beyond `limit`.
pub(super) fn decompress(message: &[u8], limit: usize) -> Result<Bytes, Status> {
    // grpc-go tells a bad head from a bad body.
    let bad_head = match message {
        [] => Some("EOF"),
        _ if message.len() < 10 => Some("unexpected EOF"),
        [0x1f, 0x8b, 8, ..] => None,
        _ => Some("gzip: invalid header"),
    };
    if let Some(why) = bad_head {
        return Err(Status::internal(format!("grpc: failed to decompress the message: {why}")));
    }
    let mut out = Vec::new();
    if let Err(error) = MultiGzDecoder::new(message).take(limit as u64 + 1).read_to_end(&mut out) {
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "unexpected EOF",
            io::ErrorKind::InvalidInput if error.to_string().contains("checksum") => "gzip: invalid checksum",
            _ => "flate: corrupt input",
        };
        return Err(Status::internal(format!("grpc: failed to read decompressed data: {why}")));
    }
    if out.len() > limit {
        let text = format!("grpc: received message after decompression larger than max {limit}");
        return Err(Status::new(Code::ResourceExhausted, text));
    }
    Ok(Bytes::from(out))
}

/// Compresses a sealed message and seals it anew.
pub(super) fn compress(parts: impl IntoIterator<Item = Bytes>) -> Bytes {
    let mut encoder = GzEncoder::new(vec![0; PREFIX_BYTES], Compression::default());
    let mut prefix = PREFIX_BYTES;
    for part in parts {
        let skip = prefix.min(part.len());
        prefix -= skip;
        encoder.write_all(&part[skip..]).expect("a vector takes everything");
    }
    let mut sealed = BytesMut::from(Bytes::from(encoder.finish().expect("a vector takes everything")));
    let len = u32::try_from(sealed.len() - PREFIX_BYTES).expect("a message is shorter than 4 GiB");
    sealed[0] = 1;
    sealed[1..PREFIX_BYTES].copy_from_slice(&len.to_be_bytes());
    sealed.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_in_parts_comes_back_whole() {
        let parts = [&b"\0\0"[..], b"\0\0\x05he", b"", b"llo"].map(Bytes::from_static);
        let sealed = compress(parts);
        assert_eq!(sealed[0], 1);
        assert_eq!(u32::from_be_bytes(sealed[1..5].try_into().unwrap()) as usize, sealed.len() - 5);
        assert_eq!(decompress(&sealed[5..], 5).unwrap(), "hello");
    }

    #[test]
    fn what_is_wrong_is_told_in_grpc_gos_words() {
        let sealed = compress([Bytes::from_static(b"\0\0\0\0\x05hello")]);
        let good = &sealed[5..];
        let said = |message: &[u8], limit| decompress(message, limit).unwrap_err().message.into_owned();
        assert_eq!(said(good, 4), "grpc: received message after decompression larger than max 4");
        assert_eq!(said(b"", 9), "grpc: failed to decompress the message: EOF");
        assert_eq!(said(&good[..9], 9), "grpc: failed to decompress the message: unexpected EOF");
        assert_eq!(said(b"nonsense nonsense", 9), "grpc: failed to decompress the message: gzip: invalid header");
        assert_eq!(said(&good[..14], 9), "grpc: failed to read decompressed data: unexpected EOF");
        let mut bad = good.to_vec();
        let end = bad.len();
        bad[end - 8] ^= 1;
        assert_eq!(said(&bad, 9), "grpc: failed to read decompressed data: gzip: invalid checksum");
        let broken = [&good[..10], &[0xff; 5]].concat();
        assert_eq!(said(&broken, 9), "grpc: failed to read decompressed data: flate: corrupt input");
    }
}
