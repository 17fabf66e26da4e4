//! The rules of users and roles, request by request, and who may do what by them.

use bytes::Bytes;

use super::*;
use crate::{
    error::{self, Status},
    proto::{
        authpb::{Permission, UserAddOptions, permission::Type},
        etcdserverpb::{request_op::Request, *},
    },
    store::{
        lease::{Lease, LeaseBook},
        types::KeyRange,
    },
};

/// Users and roles, with what became of tokens.
#[derive(Default)]
struct World {
    auth: Auth,
    leases: LeaseBook,
    index: u64,
    tokens: Vec<TokenChange>,
}

impl World {
    fn ask(&mut self, fill: impl FnOnce(&mut InternalRaftRequest)) -> Result<AuthAnswer, Status> {
        let mut request = InternalRaftRequest::default();
        fill(&mut request);
        self.index += 1;
        self.auth.apply(&request, self.index, &mut self.tokens).expect("a request about users")
    }

    fn user(&mut self, name: &str) -> Result<AuthAnswer, Status> {
        let asked = AuthUserAddRequest { name: name.into(), hashed_password: "aGFzaA==".into(), ..Default::default() };
        self.ask(|it| it.auth_user_add = Some(asked))
    }

    fn role(&mut self, name: &str) -> Result<AuthAnswer, Status> {
        self.ask(|it| it.auth_role_add = Some(AuthRoleAddRequest { name: name.into() }))
    }

    fn grant(&mut self, user: &str, role: &str) -> Result<AuthAnswer, Status> {
        let asked = AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        self.ask(|it| it.auth_user_grant_role = Some(asked))
    }

    fn permit(&mut self, role: &str, kind: Type, key: &str, end: &str) -> Result<AuthAnswer, Status> {
        let perm = Permission { perm_type: kind as i32, key: own(key), range_end: own(end) };
        let asked = AuthRoleGrantPermissionRequest { name: role.into(), perm: Some(perm) };
        self.ask(|it| it.auth_role_grant_permission = Some(asked))
    }

    fn enable(&mut self) -> Result<AuthAnswer, Status> {
        self.ask(|it| it.auth_enable = Some(AuthEnableRequest {}))
    }

    fn enabled() -> Self {
        let mut world = World::default();
        world.user("root").unwrap();
        world.grant("root", "root").unwrap();
        world.enable().unwrap();
        world
    }

    fn may(&self, user: &str, ask: Ask<'_>) -> Result<(), Status> {
        authorize(&self.auth, &self.leases, Who { user, revision: self.auth.revision() }, ask)
    }
}

fn own(text: &str) -> Bytes {
    text.to_owned().into()
}

fn range(key: &'static str, end: &'static str) -> Ask<'static> {
    Ask::Range(KeyRange::new(key.as_bytes(), end.as_bytes()))
}

#[test]
fn what_changes_counts_and_what_does_not_does_not() {
    let mut world = World::default();
    assert!(world.auth.is_untouched() && world.auth.enabled().is_none());
    assert_eq!(world.enable(), Err(error::ROOT_USER_NOT_EXIST));
    assert!(world.auth.is_untouched());
    world.user("root").unwrap();
    assert_eq!(world.enable(), Err(error::ROOT_ROLE_NOT_EXIST));
    world.grant("root", "root").unwrap();
    assert_eq!(world.auth.revision(), 3);
    world.enable().unwrap();
    world.enable().unwrap();
    world.grant("root", "root").unwrap();
    assert_eq!((world.auth.revision(), world.auth.enabled()), (3, Some(true)));
    let disable = |world: &mut World| world.ask(|it| it.auth_disable = Some(AuthDisableRequest {}));
    disable(&mut world).unwrap();
    disable(&mut world).unwrap();
    assert_eq!((world.auth.revision(), world.auth.enabled()), (4, Some(false)));
    assert_eq!(world.tokens, [TokenChange::Cleared]);
    let status = world.ask(|it| it.auth_status = Some(AuthStatusRequest {}));
    assert_eq!(status, Ok(AuthAnswer::Status { enabled: false, revision: 4 }));
}

#[test]
fn a_clone_is_of_its_moment() {
    let mut world = World::enabled();
    let before = world.auth.clone();
    world.user("ann").unwrap();
    world.role("r").unwrap();
    world.permit("r", Type::Read, "a", "").unwrap();
    world.grant("ann", "r").unwrap();
    assert!(before.user("ann").is_none() && before.roles().len() == 0 && before.revision() == 3);
    assert_eq!(world.may("ann", range("a", "")), Ok(()));
    let bytes = world.auth.bytes();
    world.ask(|it| it.auth_role_delete = Some(AuthRoleDeleteRequest { role: "r".into() })).unwrap();
    world.ask(|it| it.auth_user_delete = Some(AuthUserDeleteRequest { name: "ann".into() })).unwrap();
    assert!(bytes > before.bytes());
    assert_eq!(world.auth.bytes(), before.bytes(), "what is gone is not counted");
}

#[test]
fn a_token_is_made_for_whom_the_password_was_proven() {
    let mut world = World::default();
    let authenticate = |world: &mut World, name: &str| {
        let asked = InternalAuthenticateRequest { name: name.into(), simple_token: "abc".into(), ..Default::default() };
        world.ask(|it| it.authenticate = Some(asked))
    };
    assert_eq!(authenticate(&mut world, "root"), Err(error::AUTH_NOT_ENABLED));
    let mut world = World::enabled();
    let options = Some(UserAddOptions { no_password: true });
    let asked = AuthUserAddRequest { name: "cert".into(), options, ..Default::default() };
    world.ask(|it| it.auth_user_add = Some(asked)).unwrap();
    assert_eq!(authenticate(&mut world, "cert"), Err(error::AUTH_FAILED));
    assert_eq!(authenticate(&mut world, "nobody"), Err(error::AUTH_FAILED));
    assert!(world.tokens.is_empty());
    let answer = authenticate(&mut world, "root");
    let index = world.index;
    assert_eq!(answer, Ok(AuthAnswer::Authenticated { index, revision: 4 }));
    assert_eq!(world.tokens, [TokenChange::Minted { prefix: "abc".into(), index, user: "root".into() }]);
    // What is no hash is refused in etcd's strange words.
    let change =
        AuthUserChangePasswordRequest { name: "root".into(), hashed_password: "?".into(), ..Default::default() };
    let refused = world.ask(|it| it.auth_user_change_password = Some(change.clone()));
    assert_eq!(refused, Err(error::NO_PASSWORD_USER));
    // Of one without a password it is not even looked at.
    let change = AuthUserChangePasswordRequest { name: "cert".into(), ..change };
    world.ask(|it| it.auth_user_change_password = Some(change)).unwrap();
    assert!(world.auth.user("cert").unwrap().password.is_empty());
    assert_eq!(world.tokens[1..], [TokenChange::Dropped { user: "cert".into() }]);
}

#[test]
fn who_is_nobody_or_of_yesterday_is_told_so() {
    let mut world = World::enabled();
    world.user("ann").unwrap();
    let ask = |world: &World, user: &str, revision, ask: Ask<'_>| {
        authorize(&world.auth, &world.leases, Who { user, revision }, ask)
    };
    let now = world.auth.revision();
    assert_eq!(ask(&world, "", 0, range("a", "")), Err(error::USER_EMPTY));
    assert_eq!(ask(&world, "root", now - 1, range("a", "")), Err(error::AUTH_OLD_REVISION));
    assert_eq!(ask(&world, "root", now, range("a", "\0")), Ok(()));
    assert_eq!(ask(&world, "gone", now, range("a", "")), Err(error::PERMISSION_DENIED));
    assert_eq!(ask(&world, "ann", now, range("a", "")), Err(error::PERMISSION_DENIED));
    // Root's own business is asked of the user alone, of whatever revision.
    assert_eq!(ask(&world, "", 0, Ask::Admin), Err(error::USER_EMPTY));
    assert_eq!(ask(&world, "gone", now, Ask::Admin), Err(error::USER_NOT_FOUND));
    assert_eq!(ask(&world, "ann", now, Ask::Admin), Err(error::PERMISSION_DENIED));
    assert_eq!(ask(&world, "root", 1, Ask::Admin), Ok(()));
    assert_eq!(ask(&world, "", 0, Ask::Known), Err(error::USER_EMPTY));
    assert_eq!(ask(&world, "gone", 1, Ask::Known), Ok(()));
    assert_eq!(ask(&world, "", 0, Ask::Nothing), Ok(()));
    assert_eq!(ask(&world, "ann", 1, Ask::User("ann")), Ok(()));
    assert_eq!(ask(&world, "ann", 1, Ask::User("root")), Err(error::PERMISSION_DENIED));
    assert_eq!(ask(&world, "", 0, Ask::User("root")), Err(error::USER_EMPTY));
    assert_eq!(ask(&world, "ann", 1, Ask::Role("r")), Err(error::PERMISSION_DENIED));
    // While nobody is asked for, everything may be.
    let off = World::default();
    assert_eq!(authorize(&off.auth, &off.leases, Who::NOBODY, Ask::Admin), Ok(()));
    assert_eq!((Who::root(&off.auth), Who::root(&world.auth).user), (Who::NOBODY, "root"));
}

#[test]
fn permissions_of_all_roles_come_together() {
    let mut world = World::enabled();
    world.user("ann").unwrap();
    for (role, kind, key, end) in [("one", Type::Read, "a", "c"), ("two", Type::Readwrite, "c", "e")] {
        world.role(role).unwrap();
        world.permit(role, kind, key, end).unwrap();
        world.grant("ann", role).unwrap();
    }
    let put = |key: &str, lease, prev_kv| PutRequest { key: own(key), lease, prev_kv, ..Default::default() };
    assert_eq!(world.may("ann", range("a", "e")), Ok(()), "over the border of two roles");
    assert_eq!(world.may("ann", range("a", "f")), Err(error::PERMISSION_DENIED));
    assert_eq!(world.may("ann", Ask::Put(&put("a", 0, false))), Err(error::PERMISSION_DENIED));
    assert_eq!(world.may("ann", Ask::Put(&put("c", 0, true))), Ok(()));
    world.permit("one", Type::Write, "x", "").unwrap();
    assert_eq!(world.may("ann", Ask::Put(&put("x", 0, false))), Ok(()));
    assert_eq!(world.may("ann", Ask::Put(&put("x", 0, true))), Err(error::PERMISSION_DENIED));
    let delete = DeleteRangeRequest { key: own("x"), prev_kv: true, ..Default::default() };
    assert_eq!(world.may("ann", Ask::Delete(&delete)), Err(error::PERMISSION_DENIED));
    // A kind that nobody knows yet permits nothing.
    let perm = Permission { perm_type: 9, key: own("y"), range_end: own("") };
    let asked = AuthRoleGrantPermissionRequest { name: "one".into(), perm: Some(perm) };
    world.ask(|it| it.auth_role_grant_permission = Some(asked)).unwrap();
    assert_eq!(world.may("ann", range("y", "")), Err(error::PERMISSION_DENIED));
    let revoke = AuthUserRevokeRoleRequest { name: "ann".into(), role: "two".into() };
    world.ask(|it| it.auth_user_revoke_role = Some(revoke)).unwrap();
    assert_eq!(world.may("ann", range("a", "e")), Err(error::PERMISSION_DENIED));
    assert_eq!(world.may("ann", range("a", "c")), Ok(()));
}

#[test]
fn leases_are_asked_for_key_by_key_however_many() {
    let mut world = World::enabled();
    world.user("ann").unwrap();
    world.role("r").unwrap();
    for (key, end) in [("a", "b"), ("c", ""), ("d", "e")] {
        world.permit("r", Type::Readwrite, key, end).unwrap();
    }
    world.grant("ann", "r").unwrap();
    for lease in [1, 2, 3] {
        world.leases.grant(Lease { id: lease, ttl: 60, remaining: 0 });
    }
    for at in 0..5000 {
        world.leases.attach(1, format!("a{at}").as_bytes());
        world.leases.attach(1, format!("d{at}").as_bytes());
    }
    world.leases.attach(1, b"c");
    assert_eq!(world.may("ann", Ask::LeaseWrite(1)), Ok(()));
    assert_eq!(world.may("ann", Ask::LeaseKeys(1)), Ok(()));
    assert_eq!(world.may("ann", Ask::Leases), Ok(()));
    let put = PutRequest { key: own("a"), lease: 1, ..Default::default() };
    assert_eq!(world.may("ann", Ask::Put(&put)), Ok(()));
    for key in [&b"c\0"[..], b"e", b"\0", b"b"] {
        world.leases.attach(1, key);
        assert_eq!(world.may("ann", Ask::LeaseWrite(1)), Err(error::PERMISSION_DENIED), "{key:?}");
        assert_eq!(world.may("ann", Ask::LeaseKeys(1)), Err(error::PERMISSION_DENIED));
        assert_eq!(world.may("ann", Ask::Leases), Err(error::PERMISSION_DENIED));
        assert_eq!(world.may("ann", Ask::Put(&put)), Err(error::PERMISSION_DENIED));
        assert_eq!(world.may("root", Ask::LeaseWrite(1)), Ok(()));
        world.leases.detach(1, key);
    }
    // A lease without keys, and one that is not there, are anybody's; to be told of keys takes a name.
    for lease in [2, 99] {
        assert_eq!(world.may("ann", Ask::LeaseWrite(lease)), Ok(()));
        let nobody = |ask| authorize(&world.auth, &world.leases, Who::NOBODY, ask);
        assert_eq!(nobody(Ask::LeaseWrite(lease)), Ok(()));
        assert_eq!(nobody(Ask::LeaseKeys(lease)), Err(error::USER_EMPTY));
    }
    let nobody = authorize(&world.auth, &world.leases, Who::NOBODY, Ask::LeaseWrite(1));
    assert_eq!(nobody, Err(error::USER_EMPTY));
}

#[test]
fn a_transaction_is_asked_for_whole() {
    let mut world = World::enabled();
    world.user("ann").unwrap();
    world.role("r").unwrap();
    world.permit("r", Type::Read, "a", "").unwrap();
    world.grant("ann", "r").unwrap();
    let op = |request| RequestOp { request: Some(request) };
    let get = |key: &str| op(Request::RequestRange(RangeRequest { key: own(key), ..Default::default() }));
    let compare = |key: &str, end: &str| Compare { key: own(key), range_end: own(end), ..Default::default() };
    let txn = |compare, success, failure| TxnRequest { compare, success, failure };
    let nest = |inner| op(Request::RequestTxn(inner));
    let denied = Err(error::PERMISSION_DENIED);
    for (request, wanted) in [
        (txn(vec![], vec![], vec![]), Ok(())),
        (txn(vec![compare("a", "")], vec![get("a")], vec![RequestOp { request: None }]), Ok(())),
        (txn(vec![compare("a", "b")], vec![], vec![]), denied.clone()),
        (txn(vec![], vec![], vec![get("b")]), denied.clone()),
        (txn(vec![], vec![nest(txn(vec![compare("b", "")], vec![], vec![]))], vec![]), denied.clone()),
        (txn(vec![], vec![], vec![nest(txn(vec![], vec![nest(txn(vec![], vec![], vec![get("b")]))], vec![]))]), denied),
    ] {
        assert_eq!(world.may("ann", Ask::Txn(&request)), wanted, "{request:?}");
        assert_eq!(world.may("root", Ask::Txn(&request)), Ok(()));
    }
    // One that asks for nothing is refused nobody, as in etcd.
    let nothing = txn(vec![], vec![], vec![]);
    assert_eq!(authorize(&world.auth, &world.leases, Who::NOBODY, Ask::Txn(&nothing)), Ok(()));
}
