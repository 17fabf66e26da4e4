//! Wraps a client's request into the InternalRaftRequest that is logged. The client's own bytes are carried over as
//! they are, already checked: one copy, no second encoding.

use bytes::{BufMut, Bytes, BytesMut};

use crate::observe::metrics::Operation;
use crate::wire::*;

/// The requests a client can have logged, by their field numbers in InternalRaftRequest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Put = 4,
    DeleteRange = 5,
    Txn = 6,
    Compaction = 7,
    LeaseGrant = 8,
    LeaseRevoke = 9,
    Alarm = 10,
}

impl Kind {
    /// As what it is counted.
    pub fn operation(self) -> Operation {
        match self {
            Kind::Put => Operation::Put,
            Kind::DeleteRange => Operation::DeleteRange,
            Kind::Txn => Operation::Txn,
            Kind::Compaction => Operation::Compaction,
            Kind::LeaseGrant => Operation::LeaseGrant,
            Kind::LeaseRevoke => Operation::LeaseRevoke,
            Kind::Alarm => Operation::Alarm,
        }
    }
}

/// The tag of field 100, `header`, length-delimited: 100 << 3 | 2 as a varint.
const HEADER_TAG: [u8; 2] = [0xa2, 0x06];

/// The marshalled request: the body as its field, then the header with `id` (and, once authentication exists, the
/// user's name and the auth revision).
pub fn internal(kind: Kind, body: &[u8], id: u64) -> Bytes {
    let header = uint_len(id);
    let mut out = BytesMut::with_capacity(message_len(body.len()) + HEADER_TAG.len() + 1 + header);
    put_head(&mut out, kind as u8, body.len());
    out.put_slice(body);
    out.put_slice(&HEADER_TAG);
    put_varint(&mut out, header as u64);
    put_uint(&mut out, 1, id);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::etcdserverpb::*;

    #[test]
    fn what_is_wrapped_by_hand_decodes_as_the_message() {
        let put = PutRequest { key: "k".into(), value: vec![7u8; 300].into(), lease: 5, ..Default::default() };
        for id in [1, 0x7f, u64::MAX] {
            let data = internal(Kind::Put, &put.encode_to_vec(), id);
            let wanted = InternalRaftRequest {
                header: Some(RequestHeader { id, ..Default::default() }),
                put: Some(put.clone()),
                ..Default::default()
            };
            assert_eq!(InternalRaftRequest::decode(data.clone()).unwrap(), wanted);
            assert_eq!(data, wanted.encode_to_vec());
        }
        let revoke = LeaseRevokeRequest { id: 9 };
        let data = internal(Kind::LeaseRevoke, &revoke.encode_to_vec(), 3);
        assert_eq!(InternalRaftRequest::decode(data).unwrap().lease_revoke, Some(revoke));
    }
}
