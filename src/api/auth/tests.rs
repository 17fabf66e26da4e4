use super::*;
use crate::{
    api::testing::Bench,
    auth::TokenChange,
    grpc::Metadata,
    proto::{authpb::UserAddOptions, etcdserverpb::InternalRaftRequest},
    wire::frame::PREFIX_BYTES,
};

/// A bench with root and ann, who have the tokens `t.1` and `t.2`.
fn with_users() -> Bench {
    let mut bench = Bench::new();
    for name in ["root", "ann"] {
        let options = Some(UserAddOptions { no_password: true });
        let request = AuthUserAddRequest { name: name.into(), password: "p".into(), options, ..Default::default() };
        bench.call("/etcdserverpb.Auth/UserAdd", &request).unwrap();
    }
    let grant = AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() };
    bench.call("/etcdserverpb.Auth/UserGrantRole", &grant).unwrap();
    bench.call("/etcdserverpb.Auth/AuthEnable", &AuthEnableRequest {}).unwrap();
    let minted =
        |before: u64, user: &str| TokenChange::Minted { prefix: "t".into(), index: before + 1, user: user.into() };
    bench.shard().member.tokens.change(&[minted(1, "root"), minted(2, "ann")], 0);
    bench
}

fn call(bench: &mut Bench, token: &str, path: &str, request: &impl Message) -> Result<Bytes, Status> {
    let metadata = Metadata::default().with("token", token.as_bytes());
    bench.call_raw(path, request.encode_to_vec().into(), metadata).map(|frame| frame.seal().slice(PREFIX_BYTES..))
}

fn logged(bench: &Bench) -> InternalRaftRequest {
    InternalRaftRequest::decode(bench.proposals.last().expect("something was logged").clone()).unwrap()
}

#[test]
fn a_request_is_logged_with_its_users_name_and_revision() {
    let mut bench = with_users();
    let put = PutRequest { key: "k".into(), ..Default::default() };
    call(&mut bench, "t.1", "/etcdserverpb.KV/Put", &put).unwrap();
    let header = logged(&bench).header.unwrap();
    assert_eq!((&header.username[..], header.auth_revision), ("root", 4));
    let refused = call(&mut bench, "t.2", "/etcdserverpb.KV/Put", &put);
    assert_eq!(refused, Err(error::PERMISSION_DENIED));
    // While nobody is asked for there is no name, whatever is shown.
    call(&mut bench, "t.1", "/etcdserverpb.Auth/AuthDisable", &AuthDisableRequest {}).unwrap();
    call(&mut bench, "nonsense", "/etcdserverpb.KV/Put", &put).unwrap();
    let header = logged(&bench).header.unwrap();
    assert_eq!((&header.username[..], header.auth_revision), ("", 0));
}

/// Another member may have given it: then it is waited for, once, where a stream begins.
#[test]
fn a_token_of_an_entry_that_is_not_applied_yet_is_to_come() {
    let shows = |bench: &Bench, name: &'static str, token: String| {
        bench.services.has_token_to_come(&Metadata::default().with(name, token.as_bytes()))
    };
    assert!(!shows(&Bench::new(), "token", "t.1000".into()), "while nobody is asked for a name");
    let bench = with_users();
    let applied = bench.state.applied().0;
    // It names the entry before the one that made it.
    assert!(shows(&bench, "token", format!("t.{applied}")));
    assert!(shows(&bench, "authorization", format!("Bearer t.{applied}")));
    assert!(!shows(&bench, "token", format!("t.{}", applied - 1)));
    assert!(!shows(&bench, "token", format!("{applied}")));
    assert!(!bench.services.has_token_to_come(&Metadata::default()));
}

#[test]
fn no_password_is_ever_logged() {
    let bench = with_users();
    for data in &bench.proposals {
        let request = InternalRaftRequest::decode(data.clone()).unwrap();
        assert!(request.auth_user_add.is_none_or(|add| add.password.is_empty()));
    }
}

#[test]
fn what_is_refused_is_asked_once_more_when_all_is_known_and_not_logged() {
    let mut bench = with_users();
    let (logged, reads) = (bench.proposals.len(), bench.reads);
    let put = PutRequest { key: "k".into(), ..Default::default() };
    assert_eq!(call(&mut bench, "t.2", "/etcdserverpb.KV/Put", &put), Err(error::PERMISSION_DENIED));
    assert_eq!((bench.proposals.len(), bench.reads), (logged, reads + 1));
    assert_eq!(call(&mut bench, "t.9", "/etcdserverpb.KV/Put", &put), Err(error::INVALID_AUTH_TOKEN));
    assert_eq!(bench.call("/etcdserverpb.KV/Put", &put), Err(error::USER_EMPTY));
    assert_eq!((bench.proposals.len(), bench.reads), (logged, reads + 1));
}

/// Alarms refuse first, as when it is applied.
#[test]
fn alarms_come_before_permissions() {
    let mut bench = with_users();
    let alarm = AlarmRequest { action: 1, member_id: 5, alarm: AlarmType::Nospace as i32 };
    call(&mut bench, "t.1", "/etcdserverpb.Maintenance/Alarm", &alarm).unwrap();
    let put = PutRequest { key: "k".into(), ..Default::default() };
    assert_eq!(call(&mut bench, "t.2", "/etcdserverpb.KV/Put", &put), Err(error::NO_SPACE));
}

/// What somebody may not is asked again of the log's order: here it was taken away after it was proposed.
#[test]
fn apply_has_the_last_word() {
    let mut bench = with_users();
    for request in [
        InternalRaftRequest { auth_role_add: Some(AuthRoleAddRequest { name: "r".into() }), ..Default::default() },
        InternalRaftRequest { put: Some(PutRequest { key: "k".into(), ..Default::default() }), ..Default::default() },
    ] {
        for (user, revision, wanted) in [
            ("", 0, error::USER_EMPTY),
            ("ann", 4, error::PERMISSION_DENIED),
            ("ann", 3, if request.put.is_some() { error::AUTH_OLD_REVISION } else { error::PERMISSION_DENIED }),
        ] {
            let header = RequestHeader { id: 7, username: user.into(), auth_revision: revision };
            let request = InternalRaftRequest { header: Some(header), ..request.clone() };
            assert_eq!(bench.apply(&request), Err(wanted), "{request:?}");
        }
    }
}

/// A read that takes its time is not answered by the permissions of then.
#[test]
fn a_read_that_outlives_a_change_is_refused() {
    let mut bench = with_users();
    let services = bench.services.clone();
    let view = bench.shard().view();
    let caller = Caller::Client { metadata: Metadata::default().with("token", b"t.1"), certified: None, span: None };
    let permit = services.authorize_read(&caller, &view, Ask::range(&RangeRequest::default())).unwrap();
    assert_eq!(permit.still(&bench.shard().view()), Ok(()));
    let role = AuthRoleAddRequest { name: "r".into() };
    call(&mut bench, "t.1", "/etcdserverpb.Auth/RoleAdd", &role).unwrap();
    assert_eq!(permit.still(&bench.shard().view()), Err(error::AUTH_OLD_REVISION));
    assert_eq!(permit.still(&view), Ok(()));
}

#[test]
fn users_beyond_the_bound_are_not_let_in() {
    let mut bench = Bench::new();
    let name = "n".repeat(1024 * 1024);
    let mut added = 0;
    let refused = loop {
        let request = AuthRoleAddRequest { name: format!("{added}{name}") };
        match bench.call("/etcdserverpb.Auth/RoleAdd", &request) {
            Ok(_) => added += 1,
            Err(status) => break status,
        }
    };
    assert_eq!((refused, added), (error::NO_SPACE, limits::AUTH_BYTES_MAX / (1024 * 1024)));
    let delete = AuthRoleDeleteRequest { role: format!("0{name}") };
    bench.call("/etcdserverpb.Auth/RoleDelete", &delete).unwrap();
    bench.call("/etcdserverpb.Auth/RoleAdd", &AuthRoleAddRequest { name: "r".into() }).unwrap();
}

#[test]
fn a_certificate_names_a_user_where_no_token_is_shown() {
    let bench = with_users();
    let (services, view) = (bench.services.clone(), bench.shard().view());
    let asked = |metadata: Metadata, name: &str, ask: Ask<'_>| {
        let caller = Caller::Client { metadata, certified: Some(name.into()), span: None };
        services.authorize(&caller, &view, ask)
    };
    let shown = |name: &str, value: &[u8]| Metadata::default().with(name, value);
    let nothing = Metadata::default;
    assert_eq!(asked(nothing(), "root", Ask::Admin), Ok(()));
    assert_eq!(asked(nothing(), "ann", Ask::Admin), Err(error::PERMISSION_DENIED));
    assert_eq!(asked(nothing(), "stranger", Ask::Admin), Err(error::USER_NOT_FOUND));
    // Without a name it is somebody all the same, to whom nothing is permitted.
    assert_eq!(asked(nothing(), "", Ask::Known), Ok(()));
    assert_eq!(asked(nothing(), "", Ask::Admin), Err(error::USER_EMPTY));
    assert_eq!(asked(nothing(), "", Ask::range(&RangeRequest::default())), Err(error::PERMISSION_DENIED));
    // A token says more; and who hands on what others ask says nothing.
    assert_eq!(asked(shown("token", b"t.2"), "root", Ask::Admin), Err(error::PERMISSION_DENIED));
    assert_eq!(asked(shown("token", b"x"), "root", Ask::Known), Err(error::INVALID_AUTH_TOKEN));
    assert_eq!(asked(shown("grpcgateway-accept", b"*/*"), "root", Ask::Known), Err(error::USER_EMPTY));
}
