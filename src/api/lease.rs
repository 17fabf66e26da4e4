//! Lease: grants and revokes go through the log, keep-alives never do. (etcd API, service Lease;
//! etcdserver/v3_server.go for what waits for what.)

use std::{future::poll_fn, rc::Rc, time::Duration};

use bytes::Bytes;
use hashbrown::HashMap;
use prost::Message;

use super::{
    caller::Caller,
    leader,
    request::Kind,
    service::{Served, Services, decode, header, later, refuse},
};
use crate::{
    auth::Ask,
    error::{self, Status},
    grpc::{
        Call, Frame, Unary,
        stream::{Replies, Requests},
    },
    limits,
    peers::{client::Client, remote},
    proto::etcdserverpb::{
        LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
        LeaseLeasesResponse, LeaseRevokeRequest, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
        ResponseHeader,
    },
    runtime,
    shard::{
        Shard,
        lease::{LeaseAnswer, LeaseCall, whole_seconds},
        view::View,
    },
    store::apply::Answer,
};

pub fn grant(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let mut request: LeaseGrantRequest = match decode(message.clone()) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    if !services.quota_fits(limits::LEASE_COST_BYTES) {
        return services.out_of_space();
    }
    let message = match request.id {
        0 => {
            request.id = pick_id(&services.shard);
            request.encode_to_vec().into()
        }
        _ => message,
    };
    let caller = caller.within("lease_grant", |say| {
        say.int("id", request.id);
        say.int("ttl", request.ttl);
    });
    later(async move {
        services.authorize(&caller, &services.shard.view(), Ask::Known)?;
        let (answer, _) = services.propose(&caller, Kind::LeaseGrant, &message).await?;
        let Answer::LeaseGrant { revision, id, ttl } = answer else {
            unreachable!("a grant is answered by a grant");
        };
        let header = Some(header(&services.shard, revision));
        Ok(Frame::of(&LeaseGrantResponse { header, id, ttl, error: String::new() }))
    })
}

/// An id for a lease whose client wants none in particular: a request's, without its sign.
fn pick_id(shard: &Shard) -> i64 {
    loop {
        let id = (shard.member.next_id() & (u64::MAX >> 1)) as i64;
        if id != 0 {
            return id;
        }
    }
}

pub fn revoke(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: LeaseRevokeRequest = match decode(message.clone()) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    let caller = caller.within("lease_revoke", |say| say.int("id", request.id));
    later(async move {
        services.authorize(&caller, &services.shard.view(), Ask::Known)?;
        let (answer, _) = services.propose(&caller, Kind::LeaseRevoke, &message).await?;
        let Answer::LeaseRevoke { revision } = answer else {
            unreachable!("a revoke is answered by a revoke");
        };
        let shard = &services.shard;
        Ok(shard.member.head.alone(revision, shard.member.term()))
    })
}

pub fn keep_alive(services: Rc<Services>, call: Call, requests: Requests, replies: Replies) -> Served {
    Box::pin(serve_keep_alive(services, Caller::of(call), requests, replies))
}

async fn serve_keep_alive(
    services: Rc<Services>,
    caller: Caller,
    mut requests: Requests,
    mut replies: Replies,
) -> Result<(), Status> {
    while let Some(message) = requests.next().await {
        let request = LeaseKeepAliveRequest::decode(message?).map_err(|cause| error::undecodable_in_stream(&cause))?;
        let frame = renewed(&services, &caller, request.id).await?;
        if poll_fn(|context| replies.poll_ready(context)).await.is_err() || replies.send([frame.seal()]).is_err() {
            return Err(error::CONTEXT_CANCELED);
        }
    }
    Ok(())
}

/// Renews one lease and answers.
///
/// # Errors
/// Where the caller may not; where nobody leads who can tell.
async fn renewed(services: &Services, caller: &Caller, id: i64) -> Result<Frame, Status> {
    let shard = &*services.shard;
    let _span = caller.span().map(|span| span.child("lease_renew", |say| say.int("id", id)));
    // Made before the renewal: a client must not see a revision later than one at which the lease was seen alive.
    let header = Some(header(shard, 0));
    let until_ms = runtime::now_ms() + shard.member.config.request_timeout_ms();
    let ttl = loop {
        shard.check_running()?;
        shard.advance(runtime::now_ms());
        if shard.member.is_leader() && !shard.surely_leads().await {
            return Err(error::NOT_PRIMARY_LESSOR);
        }
        shard.published.look(|view| {
            services.authorize(caller, view, Ask::Known)?;
            services.authorize(caller, view, Ask::LeaseWrite(id))
        })?;
        match shard.lease(id, LeaseCall::Renew(id)).await {
            LeaseAnswer::Renewed { ttl } => break ttl,
            // Gone is told when its keys are gone, not when its time has passed.
            LeaseAnswer::Expired => match shard.expired_lease_gone(id).await {
                Ok(()) => break 0,
                // Then it is the next leader's to say.
                Err(status) if status == error::LEADER_CHANGED => {}
                Err(status) => return Err(status),
            },
            LeaseAnswer::NotPrimary => {}
            _ => break 0,
        }
        let question = async |client: &Client, url: &str, patience| remote::renew(client, url, id, patience).await;
        match leader::ask(services, until_ms, question).await {
            Ok(Some(ttl)) => break ttl,
            Err(status) if status == error::LEASE_NOT_FOUND => break 0,
            Err(status) => return Err(status),
            Ok(None) => wait_for_leader(until_ms).await?,
        }
    };
    Ok(Frame::of(&LeaseKeepAliveResponse { header, id, ttl }))
}

/// A pause before the leader is asked again.
///
/// # Errors
/// Where the caller has waited for long enough.
async fn wait_for_leader(until_ms: u64) -> Result<(), Status> {
    runtime::sleep(Duration::from_millis(limits::FORWARD_AGAIN_MS)).await;
    match runtime::now_ms() < until_ms {
        true => Ok(()),
        false => Err(error::TIMEOUT),
    }
}

/// What is left of a lease, of what it was granted for, and its keys if they are asked for; from whoever leads.
async fn remaining(services: &Services, id: i64, keys: bool) -> Result<LeaseTimeToLiveResponse, Status> {
    let shard = &*services.shard;
    let until_ms = runtime::now_ms() + shard.member.config.request_timeout_ms();
    let told = |ttl, granted_ttl| {
        let keys = if keys { shard.view().state.leases.keys_owned(id) } else { Vec::new() };
        LeaseTimeToLiveResponse { header: None, id, ttl, granted_ttl, keys }
    };
    loop {
        shard.check_running()?;
        shard.advance(runtime::now_ms());
        match shard.lease(id, LeaseCall::Remaining(id)).await {
            LeaseAnswer::Remaining { left_ms, ttl } => return Ok(told(whole_seconds(left_ms), ttl)),
            LeaseAnswer::NotPrimary => {}
            _ => return Ok(told(-1, 0)),
        }
        let question =
            async |client: &Client, url: &str, patience| remote::time_to_live(client, url, id, keys, patience).await;
        match leader::ask(services, until_ms, question).await {
            Ok(Some(told)) => return Ok(told),
            Err(status) if status == error::LEASE_NOT_FOUND => {
                return Ok(LeaseTimeToLiveResponse { id, ttl: -1, ..Default::default() });
            }
            Err(status) => return Err(status),
            Ok(None) => wait_for_leader(until_ms).await?,
        }
    }
}

pub fn time_to_live(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: LeaseTimeToLiveRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    later(async move {
        let shard = &services.shard;
        let id = request.id;
        let before = shard.view();
        // Only its keys are a secret.
        let ask = if request.keys { Ask::LeaseKeys(id) } else { Ask::Known };
        services.authorize(&caller, &before, ask)?;
        let (asked, revision) = (before.state.auth.is_enabled(), before.state.auth.revision());
        drop(before);
        let told = remaining(&services, id, request.keys).await?;
        let view = shard.view();
        if asked && request.keys && view.state.auth.revision() != revision {
            return Err(error::AUTH_OLD_REVISION);
        }
        let header = Some(header(shard, view.revision()));
        Ok(Frame::of(&LeaseTimeToLiveResponse { header, ..told }))
    })
}

pub fn leases(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    if let Err(status) = decode::<LeaseLeasesRequest>(message) {
        return refuse(status);
    }
    later(async move {
        let shard = &services.shard;
        let view = shard.view();
        services.authorize_leases(&caller, &view).await?;
        let deadlines: HashMap<i64, u64> = shard.all_leases().await.unwrap_or_default().into_iter().collect();
        let header = header(shard, view.revision());
        if view.state.leases.len() <= limits::INLINE_KEYS_MAX {
            return Ok(listed(header, &view, &deadlines));
        }
        Ok(runtime::background(move || listed(header, &view, &deadlines)).await)
    })
}

/// All leases of a view, those that end first in front. Who does not lead knows of no deadline: all are equal.
fn listed(header: ResponseHeader, view: &View, deadlines: &HashMap<i64, u64>) -> Frame {
    let deadline = |id: i64| deadlines.get(&id).copied().unwrap_or(u64::MAX);
    let mut leases: Vec<(u64, i64)> = view.state.leases.iter().map(|lease| (deadline(lease.id), lease.id)).collect();
    leases.sort_unstable();
    let leases = leases.into_iter().map(|(_, id)| LeaseStatus { id }).collect();
    Frame::of(&LeaseLeasesResponse { header: Some(header), leases })
}

#[cfg(test)]
mod tests;
