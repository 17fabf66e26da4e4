//! Wraps a client's request into the InternalRaftRequest that is logged. The client's own bytes are carried over as
//! they are, already checked: one copy, no second encoding.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{auth::Who, observe::metrics::Operation, wire::*};

/// The requests a client can have logged, by their field numbers in InternalRaftRequest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    Put = 4,
    DeleteRange = 5,
    Txn = 6,
    Compaction = 7,
    LeaseGrant = 8,
    LeaseRevoke = 9,
    Alarm = 10,
    AuthEnable = 1000,
    AuthDisable = 1011,
    Authenticate = 1012,
    AuthStatus = 1013,
    AuthUserAdd = 1100,
    AuthUserDelete = 1101,
    AuthUserGet = 1102,
    AuthUserChangePassword = 1103,
    AuthUserGrantRole = 1104,
    AuthUserRevokeRole = 1105,
    AuthUserList = 1106,
    AuthRoleList = 1107,
    AuthRoleAdd = 1200,
    AuthRoleDelete = 1201,
    AuthRoleGet = 1202,
    AuthRoleGrantPermission = 1203,
    AuthRoleRevokePermission = 1204,
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
            Kind::AuthEnable => Operation::AuthEnable,
            Kind::AuthDisable => Operation::AuthDisable,
            Kind::Authenticate => Operation::Authenticate,
            Kind::AuthStatus => Operation::AuthStatus,
            Kind::AuthUserAdd => Operation::AuthUserAdd,
            Kind::AuthUserDelete => Operation::AuthUserDelete,
            Kind::AuthUserGet => Operation::AuthUserGet,
            Kind::AuthUserChangePassword => Operation::AuthUserChangePassword,
            Kind::AuthUserGrantRole => Operation::AuthUserGrantRole,
            Kind::AuthUserRevokeRole => Operation::AuthUserRevokeRole,
            Kind::AuthUserList => Operation::AuthUserList,
            Kind::AuthRoleList => Operation::AuthRoleList,
            Kind::AuthRoleAdd => Operation::AuthRoleAdd,
            Kind::AuthRoleDelete => Operation::AuthRoleDelete,
            Kind::AuthRoleGet => Operation::AuthRoleGet,
            Kind::AuthRoleGrantPermission => Operation::AuthRoleGrantPermission,
            Kind::AuthRoleRevokePermission => Operation::AuthRoleRevokePermission,
        }
    }
}

/// The tag of field 100, `header`, length-delimited: 100 << 3 | 2 as a varint.
const HEADER_TAG: [u8; 2] = [0xa2, 0x06];

/// The marshalled request of nobody: the body as its field, then the header with `id`.
pub fn internal(kind: Kind, body: &[u8], id: u64) -> Bytes {
    signed(kind, body, id, Who::NOBODY)
}

/// The same with the name of who asks for it, and the revision of users and roles at which that was known.
pub fn signed(kind: Kind, body: &[u8], id: u64, who: Who<'_>) -> Bytes {
    let tag = u64::from(kind as u16) << 3 | 2;
    let header = uint_len(id) + bytes_len(who.user.len()) + uint_len(who.revision);
    let len = varint_len(tag) + varint_len(body.len() as u64) + body.len();
    let mut out = BytesMut::with_capacity(len + HEADER_TAG.len() + varint_len(header as u64) + header);
    put_varint(&mut out, tag);
    put_varint(&mut out, body.len() as u64);
    out.put_slice(body);
    out.put_slice(&HEADER_TAG);
    put_varint(&mut out, header as u64);
    put_uint(&mut out, 1, id);
    put_bytes(&mut out, 2, who.user.as_bytes());
    put_uint(&mut out, 3, who.revision);
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
        let list = AuthUserListRequest {};
        let who = Who { user: "ann", revision: 300 };
        let data = signed(Kind::AuthUserList, &list.encode_to_vec(), 3, who);
        let wanted = InternalRaftRequest {
            header: Some(RequestHeader { id: 3, username: "ann".into(), auth_revision: 300 }),
            auth_user_list: Some(list),
            ..Default::default()
        };
        assert_eq!(InternalRaftRequest::decode(data).unwrap(), wanted);
        let revoke = LeaseRevokeRequest { id: 9 };
        let data = internal(Kind::LeaseRevoke, &revoke.encode_to_vec(), 3);
        assert_eq!(InternalRaftRequest::decode(data).unwrap().lease_revoke, Some(revoke));
    }
}
