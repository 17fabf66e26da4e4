//! Header blocks of responses. Nearly all of them say the same: these three fields are put into the client's table
//! once, in a fixed order, so that from then on each is one known byte; everything else is spelt out and leaves the
//! table alone. (RFC 7541, sections 6.1 and 6.2.)

use super::hpack::TABLE_BYTES;

/// The content type without a subtype.
pub const CONTENT_TYPE_GRPC: &[u8] = b"application/grpc";

/// What the client's table has of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Nothing,
    /// The content type, at 62.
    ContentType,
    /// An empty message at 62, status 0 at 63, the content type at 64.
    All,
    /// The client has less room than it is given at first: nothing is put there, what there was has been forgotten.
    Never,
}

pub struct Encoder {
    standing: Standing,
    /// The client is to be told that its table is not used.
    forget: bool,
}

impl Encoder {
    pub fn new() -> Self {
        Encoder { standing: Standing::Nothing, forget: false }
    }

    /// The client has this much room for a table.
    pub fn set_table_size(&mut self, bytes: u32) {
        if (bytes as usize) < TABLE_BYTES && self.standing != Standing::Never {
            self.standing = Standing::Never;
            self.forget = true;
        }
    }

    /// Must come first in every block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.forget) {
            out.push(0x20);
        }
    }

    /// `:status: 200` and `content-type: application/grpc`.
    pub fn put_grpc_head(&mut self, out: &mut Vec<u8>) {
        const STATUS_200: u8 = 0x88;
        const CONTENT_TYPE: u8 = 31;
        match self.standing {
            Standing::All => out.extend_from_slice(&[STATUS_200, 0x80 | 64]),
            Standing::ContentType => out.extend_from_slice(&[STATUS_200, 0x80 | 62]),
            Standing::Nothing => {
                out.extend_from_slice(&[STATUS_200, 0x40 | CONTENT_TYPE]);
                put_string(out, CONTENT_TYPE_GRPC);
                self.standing = Standing::ContentType;
            }
            Standing::Never => {
                out.push(STATUS_200);
                put_field(out, b"content-type", CONTENT_TYPE_GRPC);
            }
        }
    }

    /// `grpc-status: 0` and an empty `grpc-message`.
    pub fn put_ok(&mut self, out: &mut Vec<u8>) {
        match self.standing {
            Standing::All => out.extend_from_slice(&[0x80 | 63, 0x80 | 62]),
            Standing::ContentType => {
                for (name, value) in [(&b"grpc-status"[..], &b"0"[..]), (b"grpc-message", b"")] {
                    out.push(0x40);
                    put_string(out, name);
                    put_string(out, value);
                }
                self.standing = Standing::All;
            }
            Standing::Nothing | Standing::Never => {
                put_field(out, b"grpc-status", b"0");
                put_field(out, b"grpc-message", b"");
            }
        }
    }
}

/// `:status` with any value.
pub fn put_http_status(out: &mut Vec<u8>, status: u16) {
    const NAME_OF_STATUS: u8 = 8;
    out.push(NAME_OF_STATUS);
    put_string(out, status.to_string().as_bytes());
}

/// A field that is spelt out and not put into the table.
pub fn put_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    put_string(out, name);
    put_string(out, value);
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    put_integer(out, text.len());
    out.extend_from_slice(text);
}

/// With a prefix of seven bits, the one above them zero (RFC 7541, section 5.1).
fn put_integer(out: &mut Vec<u8>, value: usize) {
    const PREFIX: usize = 0x7f;
    let Some(mut rest) = value.checked_sub(PREFIX) else {
        out.push(value as u8);
        return;
    };
    out.push(PREFIX as u8);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::{
        super::{field::Field, hpack::Decoder},
        *,
    };

    /// Blocks as a client reads them that keeps a table.
    struct Client(Decoder);

    impl Client {
        fn read(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Vec<String> {
            let mut block = Vec::new();
            write(&mut block);
            let mut fields = Vec::new();
            let mut each = |field: &Field| {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                fields.push(format!("{}={}", text(&field.name), text(&field.value)));
            };
            self.0.decode(&block, &mut each).unwrap();
            fields
        }
    }

    const HEAD: [&str; 2] = [":status=200", "content-type=application/grpc"];
    const OK: [&str; 2] = ["grpc-status=0", "grpc-message="];

    #[test]
    fn what_is_said_again_takes_a_byte_a_field() {
        let (mut encoder, mut client) = (Encoder::new(), Client(Decoder::new()));
        for round in 0..3 {
            assert_eq!(client.read(|out| encoder.put_grpc_head(out)), HEAD);
            assert_eq!(client.read(|out| encoder.put_grpc_head(out)), HEAD);
            if round > 0 {
                let mut out = Vec::new();
                encoder.put_grpc_head(&mut out);
                encoder.put_ok(&mut out);
                assert_eq!(out.len(), 4);
            }
            assert_eq!(client.read(|out| encoder.put_ok(out)), OK);
        }
    }

    #[test]
    fn a_status_before_any_head_leaves_the_table_alone() {
        let (mut encoder, mut client) = (Encoder::new(), Client(Decoder::new()));
        assert_eq!(client.read(|out| encoder.put_ok(out)), OK);
        assert_eq!(client.read(|out| encoder.put_grpc_head(out)), HEAD);
        assert_eq!(client.read(|out| encoder.put_ok(out)), OK);
        assert_eq!(client.read(|out| encoder.put_grpc_head(out)), HEAD);
    }

    #[test]
    fn a_client_with_less_room_is_told_once_that_its_table_is_not_used() {
        let (mut encoder, mut client) = (Encoder::new(), Client(Decoder::new()));
        client.read(|out| encoder.put_grpc_head(out));
        client.read(|out| encoder.put_ok(out));
        encoder.set_table_size(8192);
        encoder.set_table_size(100);
        encoder.set_table_size(4096);
        for round in 0..2 {
            let mut out = Vec::new();
            encoder.begin(&mut out);
            assert_eq!(out, [0x20][round..], "a size of the table, once");
            encoder.put_grpc_head(&mut out);
            assert_eq!(client.read(|block| block.append(&mut out)), HEAD);
            assert_eq!(client.read(|out| encoder.put_ok(out)), OK);
        }
    }

    #[test]
    fn any_field_and_status_can_be_spelt_out() {
        let mut client = Client(Decoder::new());
        assert_eq!(client.read(|out| put_http_status(out, 415)), [":status=415"]);
        for len in [0, 1, 126, 127, 128, 254, 255, 16_383, 16_510, 16_511, 100_000] {
            let value = "v".repeat(len);
            assert_eq!(client.read(|out| put_field(out, b"a", value.as_bytes())), [format!("a={value}")]);
        }
    }
}
