//! Users and roles as applied state, and what each request does to them: etcd's auth store, rule for rule. A clone is an
//! immutable view of the moment. (etcd: auth/store.go.)

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use prost::Message as _;

use super::{authorize::Access, base64, ranges::Ranges};
use crate::{
    error::{self, Status},
    proto::{
        authpb::{Permission, Role, User, UserAddOptions, permission::Type},
        etcdserverpb::{
            AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
            AuthUserChangePasswordRequest, InternalAuthenticateRequest, InternalRaftRequest,
        },
    },
    store::types::KeyRange,
};

/// The user without whom nothing can be turned on, and the role that may do everything.
pub const ROOT: &str = "root";

/// Whether users are asked for, who they are, and what they may.
#[derive(Clone, Debug)]
pub struct Auth {
    enabled: bool,
    /// It has been turned on once: from then on etcd keeps a word about it.
    ever_enabled: bool,
    /// Counts what changes users and roles, so that a permission that was looked up before is told from one of now.
    revision: u64,
    accounts: Arc<Accounts>,
}

/// By name, in order of name.
#[derive(Clone, Debug, Default)]
struct Accounts {
    users: BTreeMap<String, Arc<Account>>,
    roles: BTreeMap<String, Arc<Role>>,
    /// Of all of them as protobuf.
    bytes: usize,
}

/// A user, and what the roles that it holds come to.
#[derive(Debug)]
pub(super) struct Account {
    /// Its roles are sorted.
    pub user: User,
    read: Ranges,
    write: Ranges,
}

impl Account {
    pub fn is_root(&self) -> bool {
        self.user.roles.binary_search_by(|role| (**role).cmp(ROOT)).is_ok()
    }

    pub fn holds(&self, role: &str) -> bool {
        self.user.roles.iter().any(|held| held == role)
    }

    fn ranges(&self, access: Access) -> &Ranges {
        match access {
            Access::Read => &self.read,
            Access::Write => &self.write,
        }
    }

    pub fn may(&self, access: Access, range: KeyRange<'_>) -> bool {
        self.ranges(access).cover(range)
    }

    /// Where the interval of permitted keys around a key ends, as `Ranges::stretch`.
    pub fn stretch(&self, access: Access, key: &[u8]) -> Option<Option<&[u8]>> {
        self.ranges(access).stretch(key)
    }
}

/// What the caller of a request about users and roles is told, beside a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthAnswer {
    Done,
    Status {
        enabled: bool,
        revision: u64,
    },
    /// The entry's index makes a token of this member's memory unique; a signed one carries the revision.
    Authenticated {
        index: u64,
        revision: u64,
    },
    /// Of users or of roles.
    Names(Vec<String>),
    Permissions(Vec<Permission>),
}

/// What becomes of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenChange {
    Minted {
        prefix: String,
        index: u64,
        user: String,
    },
    /// All of a user's are void.
    Dropped {
        user: String,
    },
    /// All are.
    Cleared,
}

type Changed = Result<AuthAnswer, Status>;

impl Default for Auth {
    fn default() -> Self {
        // Revision 0 is that of nobody (etcd: NewAuthStore).
        Auth { enabled: false, ever_enabled: false, revision: 1, accounts: Arc::default() }
    }
}

impl Auth {
    /// Put together again from a checkpoint. `enabled` None: it never was.
    pub fn from_parts(enabled: Option<bool>, revision: u64, users: Vec<User>, roles: Vec<Role>) -> Self {
        let mut accounts = Accounts::default();
        for role in roles {
            accounts.put_role(role);
        }
        for user in users {
            accounts.put_user(user);
        }
        let (ever_enabled, enabled) = (enabled.is_some(), enabled == Some(true));
        Auth { enabled, ever_enabled, revision, accounts: Arc::new(accounts) }
    }

    /// Whether anything was ever done with users and roles.
    pub fn is_untouched(&self) -> bool {
        self.revision == 1 && !self.ever_enabled && self.accounts.bytes == 0
    }

    #[inline]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// As the store keeps it: None until it is turned on for the first time.
    pub fn enabled(&self) -> Option<bool> {
        self.ever_enabled.then_some(self.enabled)
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// In order of name.
    pub fn users(&self) -> impl ExactSizeIterator<Item = &User> {
        self.accounts.users.values().map(|account| &account.user)
    }

    /// In order of name.
    pub fn roles(&self) -> impl ExactSizeIterator<Item = &Role> {
        self.accounts.roles.values().map(|role| &**role)
    }

    pub fn user(&self, name: &str) -> Option<&User> {
        self.account(name).map(|account| &account.user)
    }

    /// Bytes of all users and roles.
    pub fn bytes(&self) -> usize {
        self.accounts.bytes
    }

    pub(super) fn account(&self, name: &str) -> Option<&Account> {
        self.accounts.users.get(name).map(|account| &**account)
    }

    /// Applies a request, if it is one about users and roles. Whether its user may make it must have been asked before.
    /// `index`: its entry's.
    pub fn apply(
        &mut self,
        request: &InternalRaftRequest,
        index: u64,
        tokens: &mut Vec<TokenChange>,
    ) -> Option<Result<AuthAnswer, Status>> {
        Some(if let Some(asked) = &request.authenticate {
            self.authenticate(asked, index, tokens)
        } else if request.auth_enable.is_some() {
            self.enable()
        } else if request.auth_disable.is_some() {
            self.disable(tokens)
        } else if request.auth_status.is_some() {
            Ok(AuthAnswer::Status { enabled: self.enabled, revision: self.revision })
        } else if let Some(asked) = &request.auth_user_add {
            self.add_user(asked)
        } else if let Some(asked) = &request.auth_user_delete {
            self.delete_user(&asked.name, tokens)
        } else if let Some(asked) = &request.auth_user_change_password {
            self.change_password(asked, tokens)
        } else if let Some(asked) = &request.auth_user_grant_role {
            self.grant_role(&asked.user, &asked.role)
        } else if let Some(asked) = &request.auth_user_revoke_role {
            self.revoke_role(&asked.name, &asked.role)
        } else if let Some(asked) = &request.auth_user_get {
            let user = self.user(&asked.name).ok_or(error::USER_NOT_FOUND);
            user.map(|user| AuthAnswer::Names(user.roles.clone()))
        } else if request.auth_user_list.is_some() {
            Ok(AuthAnswer::Names(self.accounts.users.keys().cloned().collect()))
        } else if let Some(asked) = &request.auth_role_add {
            self.add_role(&asked.name)
        } else if let Some(asked) = &request.auth_role_delete {
            self.delete_role(&asked.role)
        } else if let Some(asked) = &request.auth_role_get {
            self.role_permissions(&asked.role)
        } else if request.auth_role_list.is_some() {
            Ok(AuthAnswer::Names(self.accounts.roles.keys().cloned().collect()))
        } else if let Some(asked) = &request.auth_role_grant_permission {
            self.grant_permission(asked)
        } else if let Some(asked) = &request.auth_role_revoke_permission {
            self.revoke_permission(asked)
        } else {
            return None;
        })
    }

    /// The accounts, to be changed: with that the revision counts on.
    fn change(&mut self) -> &mut Accounts {
        self.revision += 1;
        Arc::make_mut(&mut self.accounts)
    }

    fn authenticate(
        &mut self,
        asked: &InternalAuthenticateRequest,
        index: u64,
        tokens: &mut Vec<TokenChange>,
    ) -> Changed {
        if !self.enabled {
            return Err(error::AUTH_NOT_ENABLED);
        }
        // The password was proven before this was logged.
        match self.user(&asked.name) {
            Some(user) if !has_no_password(user) => {}
            _ => return Err(error::AUTH_FAILED),
        }
        let (prefix, user) = (asked.simple_token.clone(), asked.name.clone());
        tokens.push(TokenChange::Minted { prefix, index, user });
        Ok(AuthAnswer::Authenticated { index, revision: self.revision })
    }

    fn enable(&mut self) -> Changed {
        if !self.enabled {
            match self.account(ROOT) {
                None => return Err(error::ROOT_USER_NOT_EXIST),
                Some(root) if !root.is_root() => return Err(error::ROOT_ROLE_NOT_EXIST),
                Some(_) => (self.enabled, self.ever_enabled) = (true, true),
            }
        }
        Ok(AuthAnswer::Done)
    }

    fn disable(&mut self, tokens: &mut Vec<TokenChange>) -> Changed {
        if self.enabled {
            self.enabled = false;
            self.revision += 1;
            tokens.push(TokenChange::Cleared);
        }
        Ok(AuthAnswer::Done)
    }

    fn add_user(&mut self, asked: &AuthUserAddRequest) -> Changed {
        if asked.name.is_empty() {
            return Err(error::USER_EMPTY);
        }
        if self.user(&asked.name).is_some() {
            return Err(error::USER_ALREADY_EXIST);
        }
        let options = asked.options.unwrap_or(UserAddOptions { no_password: false });
        let password = match options.no_password {
            true => Bytes::new(),
            false => hashed(&asked.hashed_password)?,
        };
        let name = Bytes::copy_from_slice(asked.name.as_bytes());
        self.change().put_user(User { name, password, roles: Vec::new(), options: Some(options) });
        Ok(AuthAnswer::Done)
    }

    fn delete_user(&mut self, name: &str, tokens: &mut Vec<TokenChange>) -> Changed {
        if self.enabled && name == ROOT {
            return Err(error::INVALID_AUTH_MGMT);
        }
        if self.user(name).is_none() {
            return Err(error::USER_NOT_FOUND);
        }
        self.change().remove_user(name);
        tokens.push(TokenChange::Dropped { user: name.to_owned() });
        Ok(AuthAnswer::Done)
    }

    fn change_password(&mut self, asked: &AuthUserChangePasswordRequest, tokens: &mut Vec<TokenChange>) -> Changed {
        let mut user = self.user(&asked.name).ok_or(error::USER_NOT_FOUND)?.clone();
        user.password = match has_no_password(&user) {
            true => Bytes::new(),
            false => hashed(&asked.hashed_password)?,
        };
        self.change().put_user(user);
        tokens.push(TokenChange::Dropped { user: asked.name.clone() });
        Ok(AuthAnswer::Done)
    }

    fn grant_role(&mut self, name: &str, role: &str) -> Changed {
        let mut user = self.user(name).ok_or(error::USER_NOT_FOUND)?.clone();
        if role != ROOT && !self.accounts.roles.contains_key(role) {
            return Err(error::ROLE_NOT_FOUND);
        }
        if let Err(at) = user.roles.binary_search_by(|held| (**held).cmp(role)) {
            user.roles.insert(at, role.to_owned());
            self.change().put_user(user);
        }
        Ok(AuthAnswer::Done)
    }

    fn revoke_role(&mut self, name: &str, role: &str) -> Changed {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(error::INVALID_AUTH_MGMT);
        }
        let account = self.account(name).ok_or(error::USER_NOT_FOUND)?;
        if !account.holds(role) {
            return Err(error::ROLE_NOT_GRANTED);
        }
        let mut user = account.user.clone();
        user.roles.retain(|held| held != role);
        self.change().put_user(user);
        Ok(AuthAnswer::Done)
    }

    fn add_role(&mut self, name: &str) -> Changed {
        if name.is_empty() {
            return Err(error::ROLE_EMPTY);
        }
        if self.accounts.roles.contains_key(name) {
            return Err(error::ROLE_ALREADY_EXIST);
        }
        let name = Bytes::copy_from_slice(name.as_bytes());
        self.change().put_role(Role { name, key_permission: Vec::new() });
        Ok(AuthAnswer::Done)
    }

    fn delete_role(&mut self, name: &str) -> Changed {
        if self.enabled && name == ROOT {
            return Err(error::INVALID_AUTH_MGMT);
        }
        if !self.accounts.roles.contains_key(name) {
            return Err(error::ROLE_NOT_FOUND);
        }
        self.change().remove_role(name);
        Ok(AuthAnswer::Done)
    }

    fn role_permissions(&self, name: &str) -> Changed {
        let role = self.accounts.roles.get(name).ok_or(error::ROLE_NOT_FOUND)?;
        Ok(AuthAnswer::Permissions(match name {
            // Whatever it was granted, it may do everything.
            ROOT => vec![Permission {
                perm_type: Type::Readwrite as i32,
                key: Bytes::new(),
                range_end: Bytes::from_static(&[0]),
            }],
            _ => role.key_permission.clone(),
        }))
    }

    fn grant_permission(&mut self, asked: &AuthRoleGrantPermissionRequest) -> Changed {
        let granted = asked.perm.as_ref().ok_or(error::PERMISSION_NOT_GIVEN)?;
        let Permission { perm_type, key, range_end } = granted;
        let in_order = range_end.is_empty() || key < range_end || **range_end == [0];
        if key.is_empty() || !in_order {
            return Err(error::INVALID_AUTH_MGMT);
        }
        let mut role = Role::clone(self.accounts.roles.get(&asked.name).ok_or(error::ROLE_NOT_FOUND)?);
        let permissions = &mut role.key_permission;
        // Only the first of a key is looked at: another interval from the same key on is granted beside it, as in etcd.
        let at = permissions.partition_point(|permission| permission.key < *key);
        match permissions.get_mut(at) {
            Some(first) if first.key == *key && first.range_end == *range_end => first.perm_type = *perm_type,
            _ => {
                let after = permissions.partition_point(|permission| permission.key <= *key);
                let (key, range_end) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(range_end));
                permissions.insert(after, Permission { perm_type: *perm_type, key, range_end });
            }
        }
        self.change().put_role(role);
        Ok(AuthAnswer::Done)
    }

    fn revoke_permission(&mut self, asked: &AuthRoleRevokePermissionRequest) -> Changed {
        let mut role = Role::clone(self.accounts.roles.get(&asked.role).ok_or(error::ROLE_NOT_FOUND)?);
        let before = role.key_permission.len();
        role.key_permission.retain(|one| one.key != asked.key || one.range_end != asked.range_end);
        if role.key_permission.len() == before {
            return Err(error::PERMISSION_NOT_GRANTED);
        }
        self.change().put_role(role);
        Ok(AuthAnswer::Done)
    }
}

/// Whether a user can only be known by other means than a password.
pub(super) fn has_no_password(user: &User) -> bool {
    user.options.is_some_and(|options| options.no_password)
}

/// The hash that a request carries. Empty where it carries a bare password, as members before 3.5 logged it: hashing it
/// here would give every member a hash of its own.
fn hashed(text: &str) -> Result<Bytes, Status> {
    base64::decode(text).map(Bytes::from).ok_or(error::NO_PASSWORD_USER)
}

impl Accounts {
    fn put_user(&mut self, user: User) {
        let name = String::from_utf8_lossy(&user.name).into_owned();
        self.bytes += user.encoded_len();
        let account = self.account_of(user);
        if let Some(before) = self.users.insert(name, Arc::new(account)) {
            self.bytes -= before.user.encoded_len();
        }
    }

    fn remove_user(&mut self, name: &str) {
        if let Some(gone) = self.users.remove(name) {
            self.bytes -= gone.user.encoded_len();
        }
    }

    /// A role, new or changed. Who holds it may what it permits from now on.
    fn put_role(&mut self, role: Role) {
        let name = String::from_utf8_lossy(&role.name).into_owned();
        self.bytes += role.encoded_len();
        if let Some(before) = self.roles.insert(name.clone(), Arc::new(role)) {
            self.bytes -= before.encoded_len();
        }
        for user in self.holders(&name) {
            self.put_user(user);
        }
    }

    /// Who held it holds it no longer.
    fn remove_role(&mut self, name: &str) {
        if let Some(gone) = self.roles.remove(name) {
            self.bytes -= gone.encoded_len();
        }
        for mut user in self.holders(name) {
            user.roles.retain(|held| held != name);
            self.put_user(user);
        }
    }

    fn holders(&self, role: &str) -> Vec<User> {
        self.users.values().filter(|account| account.holds(role)).map(|account| account.user.clone()).collect()
    }

    /// A user with what its roles permit now. A permission of a kind that is not known permits nothing.
    fn account_of(&self, user: User) -> Account {
        let roles = user.roles.iter().filter_map(|role| self.roles.get(role));
        let granted: Vec<&Permission> = roles.flat_map(|role| &role.key_permission).collect();
        let of = |kind: Type| {
            let one = |permission: &&&Permission| [kind as i32, Type::Readwrite as i32].contains(&permission.perm_type);
            Ranges::union(granted.iter().filter(one).map(|permission| (&permission.key, &permission.range_end)))
        };
        let (read, write) = (of(Type::Read), of(Type::Write));
        Account { user, read, write }
    }
}
