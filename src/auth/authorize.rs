//! The one place where it is decided whether a user may make a request. The shard asks it before a request is answered or
//! logged, apply asks it again: of the same state, user and request it says the same on every member.
//! (etcd: apply/auth.go, auth/store.go.)

use super::{
    Auth,
    state::{Account, ROOT},
};
use crate::{
    error::{self, Status},
    proto::etcdserverpb::{
        DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request,
    },
    store::{lease::LeaseBook, types::KeyRange},
};

/// Who makes a request, as a token tells, or the header of a logged one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who<'a> {
    pub user: &'a str,
    /// The revision of users and roles at which the user was known; 0 for nobody.
    pub revision: u64,
}

impl Who<'_> {
    pub const NOBODY: Who<'static> = Who { user: "", revision: 0 };

    /// As what a member revokes leases that have run out.
    pub fn root(auth: &Auth) -> Self {
        match auth.is_enabled() {
            true => Who { user: ROOT, revision: auth.revision() },
            false => Who::NOBODY,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// What a request asks to be allowed.
#[derive(Clone, Copy, Debug)]
pub enum Ask<'a> {
    /// Nothing that anybody could be refused.
    Nothing,
    /// To be somebody.
    Known,
    /// What only root's role may.
    Admin,
    Range(KeyRange<'a>),
    Put(&'a PutRequest),
    Delete(&'a DeleteRangeRequest),
    Txn(&'a TxnRequest),
    /// To end or prolong a lease: its keys are written with it.
    LeaseWrite(i64),
    /// To be told a lease's keys.
    LeaseKeys(i64),
    /// To be told of all leases.
    Leases,
    /// A user's roles: one's own may be seen.
    User(&'a str),
    /// A role's permissions: those of one that one holds may be seen.
    Role(&'a str),
}

impl<'a> Ask<'a> {
    pub fn range(request: &'a RangeRequest) -> Self {
        Ask::Range(KeyRange::new(&request.key, &request.range_end))
    }

    /// What a logged request asks. What is not refused here is judged by the service that it came to, if at all: every
    /// member must let it pass that etcd lets pass.
    pub fn of(request: &'a InternalRaftRequest) -> Self {
        // Every field by name: one that is added has to be thought of.
        let InternalRaftRequest {
            id: _,
            header: _,
            range,
            put,
            delete_range,
            txn,
            compaction: _,
            lease_grant: _,
            lease_revoke,
            alarm: _,
            lease_checkpoint: _,
            auth_enable,
            auth_disable,
            authenticate: _,
            auth_status: _,
            auth_user_add,
            auth_user_delete,
            auth_user_get,
            auth_user_change_password,
            auth_user_grant_role,
            auth_user_revoke_role,
            auth_user_list,
            auth_role_list,
            auth_role_add,
            auth_role_delete,
            auth_role_get,
            auth_role_grant_permission,
            auth_role_revoke_permission,
            cluster_version_set: _,
            cluster_member_attr_set: _,
            downgrade_info_set: _,
            downgrade_version_test: _,
        } = request;
        let admin = auth_enable.is_some()
            || auth_disable.is_some()
            || auth_user_add.is_some()
            || auth_user_delete.is_some()
            || auth_user_change_password.is_some()
            || auth_user_grant_role.is_some()
            || auth_user_revoke_role.is_some()
            || auth_user_list.is_some()
            || auth_role_list.is_some()
            || auth_role_add.is_some()
            || auth_role_delete.is_some()
            || auth_role_grant_permission.is_some()
            || auth_role_revoke_permission.is_some();
        if admin {
            Ask::Admin
        } else if let Some(put) = put {
            Ask::Put(put)
        } else if let Some(txn) = txn {
            Ask::Txn(txn)
        } else if let Some(delete) = delete_range {
            Ask::Delete(delete)
        } else if let Some(range) = range {
            Ask::range(range)
        } else if let Some(revoke) = lease_revoke {
            Ask::LeaseWrite(revoke.id)
        } else if let Some(get) = auth_user_get {
            Ask::User(&get.name)
        } else if let Some(get) = auth_role_get {
            Ask::Role(&get.role)
        } else {
            Ask::Nothing
        }
    }
}

/// Whether somebody may have what is asked, as of these users and leases.
///
/// # Errors
/// What etcd refuses it with: USER_EMPTY, USER_NOT_FOUND, PERMISSION_DENIED, or AUTH_OLD_REVISION where the user was known
/// before the last change.
#[inline]
pub fn authorize(auth: &Auth, leases: &LeaseBook, who: Who<'_>, ask: Ask<'_>) -> Result<(), Status> {
    match auth.is_enabled() {
        true => Judge { auth, leases, who }.judge(ask),
        false => Ok(()),
    }
}

struct Judge<'a> {
    auth: &'a Auth,
    leases: &'a LeaseBook,
    who: Who<'a>,
}

impl<'a> Judge<'a> {
    fn judge(&self, ask: Ask<'_>) -> Result<(), Status> {
        match ask {
            Ask::Nothing => Ok(()),
            Ask::Known => self.known(),
            Ask::Admin => self.admin(),
            Ask::Range(range) => self.may(Access::Read, range),
            Ask::Put(put) => self.put(put),
            Ask::Delete(delete) => {
                let range = KeyRange::new(&delete.key, &delete.range_end);
                self.may(Access::Write, range)?;
                if delete.prev_kv { self.may(Access::Read, range) } else { Ok(()) }
            }
            Ask::Txn(txn) => self.txn(txn),
            Ask::LeaseWrite(lease) => self.lease(Access::Write, lease),
            Ask::LeaseKeys(lease) => self.known().and_then(|()| self.lease(Access::Read, lease)),
            Ask::Leases => {
                self.known()?;
                if self.admin().is_ok() {
                    return Ok(());
                }
                self.leases.iter().try_for_each(|lease| self.keys_of(Access::Read, lease.id))
            }
            Ask::User(name) => self.admin().or_else(|status| match name == self.who.user {
                true => Ok(()),
                false => Err(status),
            }),
            Ask::Role(role) => self.admin().or_else(|status| {
                let holds = self.auth.account(self.who.user).is_some_and(|account| account.holds(role));
                if holds { Ok(()) } else { Err(status) }
            }),
        }
    }

    fn known(&self) -> Result<(), Status> {
        if self.who == Who::NOBODY { Err(error::USER_EMPTY) } else { Ok(()) }
    }

    /// The revision does not matter here, as in etcd.
    fn admin(&self) -> Result<(), Status> {
        if self.who.user.is_empty() {
            return Err(error::USER_EMPTY);
        }
        match self.auth.account(self.who.user) {
            None => Err(error::USER_NOT_FOUND),
            Some(account) if account.is_root() => Ok(()),
            Some(_) => Err(error::PERMISSION_DENIED),
        }
    }

    /// Whose permissions count for keys; None: those of root's role, all of them.
    fn account(&self) -> Result<Option<&'a Account>, Status> {
        if self.who.revision == 0 {
            return Err(error::USER_EMPTY);
        }
        if self.who.revision < self.auth.revision() {
            return Err(error::AUTH_OLD_REVISION);
        }
        let account = self.auth.account(self.who.user).ok_or(error::PERMISSION_DENIED)?;
        Ok((!account.is_root()).then_some(account))
    }

    fn may(&self, access: Access, range: KeyRange<'_>) -> Result<(), Status> {
        match self.account()? {
            Some(account) if !account.may(access, range) => Err(error::PERMISSION_DENIED),
            _ => Ok(()),
        }
    }

    fn put(&self, put: &PutRequest) -> Result<(), Status> {
        self.may(Access::Write, KeyRange::One(&put.key))?;
        // The key is going to end with the lease: so who hangs it there must be allowed to end the others that do.
        self.lease(Access::Write, put.lease)?;
        if put.prev_kv { self.may(Access::Read, KeyRange::One(&put.key)) } else { Ok(()) }
    }

    fn txn(&self, txn: &TxnRequest) -> Result<(), Status> {
        for compare in &txn.compare {
            self.may(Access::Read, KeyRange::new(&compare.key, &compare.range_end))?;
        }
        txn.success.iter().chain(&txn.failure).try_for_each(|op| self.op(op))
    }

    fn op(&self, op: &RequestOp) -> Result<(), Status> {
        match &op.request {
            Some(Request::RequestRange(range)) => self.judge(Ask::range(range)),
            Some(Request::RequestPut(put)) => self.put(put),
            Some(Request::RequestDeleteRange(delete)) => self.judge(Ask::Delete(delete)),
            Some(Request::RequestTxn(nested)) => self.txn(nested),
            None => Ok(()),
        }
    }

    /// All keys of a lease; of one that is not there, none.
    fn lease(&self, access: Access, lease: i64) -> Result<(), Status> {
        if lease == 0 || self.admin().is_ok() {
            return Ok(());
        }
        self.keys_of(access, lease)
    }

    /// Goes from one permitted interval to the next, not from key to key: a lease may have a million keys.
    fn keys_of(&self, access: Access, lease: i64) -> Result<(), Status> {
        let mut from: &[u8] = &[];
        while let Some(key) = self.leases.first_key(lease, from) {
            let Some(account) = self.account()? else { return Ok(()) };
            match account.stretch(access, key) {
                None => return Err(error::PERMISSION_DENIED),
                Some(None) => return Ok(()),
                Some(Some(end)) => from = end,
            }
        }
        Ok(())
    }
}
