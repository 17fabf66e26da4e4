//! Auth: users, roles and tokens. Every call is logged, those that only ask, too, so that an answer is as new as the
//! question; whether its user may make it is asked of the log's order. Passwords are hashed and proven before anything is
//! logged, and no password ever is. (etcd API, service Auth; etcdserver/v3_server.go.)

use std::{
    fs::File,
    io::Read as _,
    rc::Rc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use prost::Message;

use super::{
    caller::Caller,
    request::Kind,
    service::{Services, decode, later, refuse},
};
use crate::{
    auth::{
        Ask, AuthAnswer,
        password::BYTES_MAX,
        tokens::{self, Tokens},
    },
    error::{self, Status},
    grpc::{Frame, Unary},
    limits, log,
    proto::etcdserverpb::*,
    runtime,
    store::apply::Answer,
};

/// The header of an answer and the rest of it.
type Answered = (ResponseHeader, AuthAnswer);

pub fn enable(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    relay::<AuthEnableRequest>(services, caller, Kind::AuthEnable, message, alone)
}

pub fn disable(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    relay::<AuthDisableRequest>(services, caller, Kind::AuthDisable, message, alone)
}

pub fn status(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    relay::<AuthStatusRequest>(services, caller, Kind::AuthStatus, message, |(header, answer)| {
        let AuthAnswer::Status { enabled, revision } = answer else { unreachable!("a status was asked for") };
        Frame::of(&AuthStatusResponse { header: Some(header), enabled, auth_revision: revision })
    })
}

pub fn user_delete(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    relay::<AuthUserDeleteRequest>(services, caller, Kind::AuthUserDelete, message, alone)
}

pub fn user_get(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    relay::<AuthUserGetRequest>(services, caller, Kind::AuthUserGet, message, |(header, answer)| {
        Frame::of(&AuthUserGetResponse { header: Some(header), roles: names(answer) })
    })
}

pub fn user_list(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    relay::<AuthUserListRequest>(services, caller, Kind::AuthUserList, message, |(header, answer)| {
        Frame::of(&AuthUserListResponse { header: Some(header), users: names(answer) })
    })
}

pub fn user_grant_role(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    growing::<AuthUserGrantRoleRequest>(services, caller, Kind::AuthUserGrantRole, message)
}

pub fn user_revoke_role(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    relay::<AuthUserRevokeRoleRequest>(services, caller, Kind::AuthUserRevokeRole, message, alone)
}

pub fn role_add(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    growing::<AuthRoleAddRequest>(services, caller, Kind::AuthRoleAdd, message)
}

pub fn role_delete(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    relay::<AuthRoleDeleteRequest>(services, caller, Kind::AuthRoleDelete, message, alone)
}

pub fn role_get(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    relay::<AuthRoleGetRequest>(services, caller, Kind::AuthRoleGet, message, |(header, answer)| {
        let AuthAnswer::Permissions(perm) = answer else { unreachable!("permissions were asked for") };
        Frame::of(&AuthRoleGetResponse { header: Some(header), perm })
    })
}

pub fn role_list(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    relay::<AuthRoleListRequest>(services, caller, Kind::AuthRoleList, message, |(header, answer)| {
        Frame::of(&AuthRoleListResponse { header: Some(header), roles: names(answer) })
    })
}

pub fn role_grant_permission(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    growing::<AuthRoleGrantPermissionRequest>(services, caller, Kind::AuthRoleGrantPermission, message)
}

pub fn role_revoke_permission(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    relay::<AuthRoleRevokePermissionRequest>(services, caller, Kind::AuthRoleRevokePermission, message, alone)
}

/// Has a request logged in the client's own bytes and answers with what applying it made.
fn relay<M: Message + Default>(
    services: Rc<Services>,
    caller: Caller,
    kind: Kind,
    message: Bytes,
    answer: fn(Answered) -> Frame,
) -> Unary {
    if let Err(status) = decode::<M>(message.clone()) {
        return refuse(status);
    }
    later(async move { propose(&services, &caller, kind, &message).await.map(answer) })
}

/// The same for what makes users and roles more.
fn growing<M: Message + Default>(services: Rc<Services>, caller: Caller, kind: Kind, message: Bytes) -> Unary {
    match has_room(&services) {
        true => relay::<M>(services, caller, kind, message, alone),
        false => refuse(error::NO_SPACE),
    }
}

fn has_room(services: &Services) -> bool {
    services.shard.published.look(|view| view.state.auth.bytes() < limits::AUTH_BYTES_MAX)
}

async fn propose(services: &Services, caller: &Caller, kind: Kind, message: &[u8]) -> Result<Answered, Status> {
    let (answer, _) = services.propose(caller, kind, message).await?;
    let Answer::Auth { revision, answer } = answer else {
        unreachable!("a request about users is answered as one");
    };
    let member = &services.shard.member;
    let header =
        ResponseHeader { cluster_id: member.cluster_id, member_id: member.id, revision, raft_term: member.term() };
    Ok((header, answer))
}

/// An answer of nothing but a header. Their messages are all alike.
fn alone((header, _): Answered) -> Frame {
    Frame::of(&AuthEnableResponse { header: Some(header) })
}

fn names(answer: AuthAnswer) -> Vec<String> {
    match answer {
        AuthAnswer::Names(names) => names,
        other => unreachable!("names were asked for: {other:?}"),
    }
}

pub fn user_add(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let mut request: AuthUserAddRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    if !has_room(&services) {
        return refuse(error::NO_SPACE);
    }
    later(async move {
        let password = std::mem::take(&mut request.password);
        if !request.options.is_some_and(|options| options.no_password) {
            // Nobody has passwords hashed who may not keep them.
            services.authorize_settled(&caller, Ask::Admin).await?;
            request.hashed_password = hashed(&services, password).await?;
        }
        propose(&services, &caller, Kind::AuthUserAdd, &request.encode_to_vec()).await.map(alone)
    })
}

pub fn user_change_password(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let mut request: AuthUserChangePasswordRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    later(async move {
        let password = std::mem::take(&mut request.password);
        if !password.is_empty() {
            services.authorize_settled(&caller, Ask::Admin).await?;
            request.hashed_password = hashed(&services, password).await?;
        }
        propose(&services, &caller, Kind::AuthUserChangePassword, &request.encode_to_vec()).await.map(alone)
    })
}

/// As a request carries it.
async fn hashed(services: &Rc<Services>, password: String) -> Result<String, Status> {
    let hash = services.hash_password(password).await?;
    Ok(crate::auth::base64::encode(hash.as_bytes()))
}

pub fn authenticate(services: Rc<Services>, _: Caller, message: Bytes) -> Unary {
    let AuthenticateRequest { name, password } = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    later(async move {
        services.shard.linearizable().await?;
        let result = authenticated(&services, name, password).await;
        if let Err(status) = &result
            && *status != error::AUTH_NOT_ENABLED
        {
            log!(Warn, "invalid authentication was requested", "error" = &*status.message);
        }
        result
    })
}

async fn authenticated(services: &Rc<Services>, name: String, mut password: String) -> Result<Frame, Status> {
    // No more of it is looked at: nothing else of it is kept while it waits for its turn.
    if let Some(end) = (BYTES_MAX..password.len()).find(|at| password.is_char_boundary(*at)) {
        password.truncate(end);
        password.shrink_to_fit();
    }
    loop {
        let view = services.shard.view();
        let auth = &view.state.auth;
        if !auth.is_enabled() {
            return Err(error::AUTH_NOT_ENABLED);
        }
        let (checked_at, user) = (auth.revision(), auth.user(&name));
        if user.is_some_and(|user| user.options.is_some_and(|options| options.no_password)) {
            return Err(error::NO_PASSWORD_USER);
        }
        // Of a user that is not there no hash either: that takes as long.
        let (known, hash) = (user.is_some(), user.map_or_else(Bytes::new, |user| user.password.clone()));
        drop(view);
        if !services.password_matches(hash, password.clone()).await? || !known {
            return Err(error::AUTH_FAILED);
        }
        let simple_token = match &services.shard.member.tokens {
            Tokens::Simple(_) => tokens::simple_prefix(|bytes| File::open("/dev/urandom")?.read_exact(bytes))
                .map_err(|cause| Status::internal(format!("no random numbers: {cause}")))?,
            Tokens::Signed(_) | Tokens::None => String::new(),
        };
        let asked = InternalAuthenticateRequest {
            name: name.clone(),
            password: String::new(),
            simple_token: simple_token.clone(),
        };
        let (header, answer) = propose(services, &Caller::Member, Kind::Authenticate, &asked.encode_to_vec()).await?;
        let AuthAnswer::Authenticated { index, revision } = answer else {
            unreachable!("an authentication was asked for");
        };
        // Changed since the password was proven: it may be another by now.
        if revision != checked_at {
            continue;
        }
        let token = match &services.shard.member.tokens {
            Tokens::Simple(_) => tokens::simple_token(&simple_token, index),
            Tokens::Signed(_) => signed(services, name, revision).await?,
            Tokens::None => return Err(error::AUTH_FAILED),
        };
        return Ok(Frame::of(&AuthenticateResponse { header: Some(header), token }));
    }
}

/// A signed token, made where it may take its time.
async fn signed(services: &Rc<Services>, user: String, revision: u64) -> Result<String, Status> {
    let member = services.shard.member.clone();
    runtime::background(move || {
        let now_unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
        match &member.tokens {
            Tokens::Signed(jwt) => jwt.sign(&user, revision, now_unix),
            Tokens::Simple(_) | Tokens::None => unreachable!("a member keeps its kind of tokens"),
        }
    })
    .await
}

#[cfg(test)]
mod tests;
