//! Election: who created the oldest key under the election's name leads, and its value is what it proclaims. (etcd API,
//! Election; api/v3election, concurrency/election.go.)

use std::{future::poll_fn, rc::Rc};

use bytes::Bytes;

use super::{
    caller::Caller,
    inside::{Inside, Withdrawal, created_at, delete, end_of, get, key_of, oldest, prefix_of, put},
    lock::found,
    service::{Served, Services, decode, later, only_request, refuse},
};
use crate::{
    error::{self, Status},
    grpc::{
        Call, Frame, Unary,
        stream::{Gone, Replies, Requests},
    },
    proto::{
        etcdserverpb::{
            RangeRequest, ResponseHeader, TxnRequest, WatchCreateRequest, watch_create_request::FilterType,
        },
        mvccpb::{KeyValue, event::EventType},
        v3electionpb::{
            CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
            ProclaimResponse, ResignRequest, ResignResponse,
        },
    },
};

pub fn campaign(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: CampaignRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    later(async move {
        let elected = elected(&Inside::new(services, caller), request).await?;
        Ok(Frame::of(&elected))
    })
}

async fn elected(inside: &Inside, request: CampaignRequest) -> Result<CampaignResponse, Status> {
    let lease = inside.session(request.lease).await?;
    let prefix = prefix_of(&request.name);
    let key = key_of(&prefix, lease);
    let stood = inside
        .txn(&TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![put(&key, request.value.clone(), lease)],
            failure: vec![get(RangeRequest { key: key.clone(), ..Default::default() })],
        })
        .await?;
    let mut rev = stood.header.as_ref().map_or(0, |header| header.revision);
    if let Some(standing) = found(&stood, 0) {
        // The lease stands already. It may stand for something else now.
        rev = standing.create_revision;
        if standing.value != request.value
            && let Err(status) = proclaimed(inside, &key, rev, request.value, lease).await
        {
            // Whether that succeeds is not asked.
            let _ = inside.txn(&resignation(&key, rev)).await;
            return Err(status);
        }
    }
    let withdrawal = Withdrawal::new(inside, resignation(&key, rev));
    let waited = inside.wait_for_older(&prefix, rev).await;
    // Only a caller that has gone takes its key along: after an error the lease goes on standing.
    withdrawal.keep();
    waited?;
    // The header is the candidacy's, however long the election took.
    Ok(CampaignResponse { header: stood.header, leader: Some(LeaderKey { name: request.name, key, rev, lease }) })
}

/// Puts a new value under the key of a candidate.
///
/// # Errors
/// NOT_LEADER where the key is not the one that was created at `rev`.
async fn proclaimed(
    inside: &Inside,
    key: &Bytes,
    rev: i64,
    value: Bytes,
    lease: i64,
) -> Result<Option<ResponseHeader>, Status> {
    let told = inside
        .txn(&TxnRequest {
            compare: vec![created_at(key, rev)],
            success: vec![put(key, value, lease)],
            ..Default::default()
        })
        .await?;
    match told.succeeded {
        true => Ok(told.header),
        false => Err(error::ELECTION_NOT_LEADER),
    }
}

fn resignation(key: &Bytes, rev: i64) -> TxnRequest {
    TxnRequest { compare: vec![created_at(key, rev)], success: vec![delete(key)], ..Default::default() }
}

pub fn proclaim(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: ProclaimRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    let Some(LeaderKey { key, rev, lease, .. }) = request.leader else {
        return refuse(error::ELECTION_LEADER_MISSING);
    };
    later(async move {
        let inside = Inside::new(services, caller);
        let lease = inside.session(lease).await?;
        let header = proclaimed(&inside, &key, rev, request.value, lease).await?;
        Ok(Frame::of(&ProclaimResponse { header }))
    })
}

pub fn resign(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: ResignRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    let Some(LeaderKey { key, rev, lease, .. }) = request.leader else {
        return refuse(error::ELECTION_LEADER_MISSING);
    };
    later(async move {
        let inside = Inside::new(services, caller);
        // Of no use here, but etcd grants one where none is named, and a client finds it among its leases.
        inside.session(lease).await?;
        // Who does not lead resigns all the same, and nothing changes.
        let resigned = inside.txn(&resignation(&key, rev)).await?;
        Ok(Frame::of(&ResignResponse { header: resigned.header }))
    })
}

pub fn leader(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: LeaderRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    later(async move {
        let found = Inside::new(services, caller).range(&oldest(&prefix_of(&request.name))).await?;
        match found.kvs.into_iter().next() {
            Some(kv) => Ok(Frame::of(&LeaderResponse { header: found.header, kv: Some(kv) })),
            None => Err(error::ELECTION_NO_LEADER),
        }
    })
}

pub fn observe(services: Rc<Services>, call: Call, mut requests: Requests, mut replies: Replies) -> Served {
    let caller = Caller::of(call);
    Box::pin(async move {
        let request: LeaderRequest = only_request(&mut requests).await?;
        match observed(&Inside::new(services, caller), &prefix_of(&request.name), &mut replies).await {
            End::CallerGone => Err(error::CONTEXT_CANCELED),
            // Whatever ends an observation, etcd's caller sees the stream end well. (etcd: election.go, Observe.)
            End::Disrupted => Ok(()),
        }
    })
}

/// Why an observation has ended.
enum End {
    CallerGone,
    /// A read has failed, or a watch was ended.
    Disrupted,
}

impl From<Status> for End {
    fn from(_: Status) -> Self {
        End::Disrupted
    }
}

/// Tells who leads and what it proclaims, for as long as the caller listens.
async fn observed(inside: &Inside, prefix: &Bytes, replies: &mut Replies) -> End {
    loop {
        if let Err(end) = observe_one(inside, prefix, replies).await {
            return end;
        }
    }
}

/// Tells of one leader, until its key is deleted.
async fn observe_one(inside: &Inside, prefix: &Bytes, replies: &mut Replies) -> Result<(), End> {
    let found = inside.range(&oldest(prefix)).await?;
    let mut header = found.header.unwrap_or_default();
    let leader = match found.kvs.into_iter().next() {
        Some(kv) => kv,
        None => {
            let kv = first_put(inside, prefix, &mut header).await?;
            // What the watch has seen since is told by the next one.
            header.revision = kv.mod_revision;
            kv
        }
    };
    let (key, from) = (leader.key.clone(), header.revision + 1);
    tell(replies, header, leader).await?;
    let mut watch = inside.watch(&WatchCreateRequest { key, start_revision: from, ..Default::default() });
    loop {
        let told = watch.next().await?;
        if told.canceled {
            return Err(End::Disrupted);
        }
        let header = told.header.unwrap_or_default();
        for event in told.events {
            if event.r#type() == EventType::Delete {
                return Ok(());
            }
            if let Some(kv) = event.kv {
                tell(replies, header, kv).await?;
            }
        }
    }
}

/// Waits for the first candidate, of which a watch tells in a response with `header`.
async fn first_put(inside: &Inside, prefix: &Bytes, header: &mut ResponseHeader) -> Result<KeyValue, End> {
    let mut watch = inside.watch(&WatchCreateRequest {
        key: prefix.clone(),
        range_end: end_of(prefix),
        start_revision: header.revision,
        filters: vec![FilterType::Nodelete as i32],
        ..Default::default()
    });
    loop {
        let told = watch.next().await?;
        if told.canceled {
            return Err(End::Disrupted);
        }
        if let Some(kv) = told.events.into_iter().find_map(|event| event.kv) {
            *header = told.header.unwrap_or_default();
            return Ok(kv);
        }
    }
}

/// Tells the caller once it takes what it was told before: until then its watch holds a position and no more.
async fn tell(replies: &mut Replies, header: ResponseHeader, kv: KeyValue) -> Result<(), End> {
    let gone = |Gone| End::CallerGone;
    poll_fn(|context| replies.poll_ready(context)).await.map_err(gone)?;
    let frame = Frame::of(&LeaderResponse { header: Some(header), kv: Some(kv) });
    replies.send([frame.seal()]).map_err(gone)
}

#[cfg(test)]
mod tests;
