//! Cluster: who belongs to it. Changes go through the log as etcd's own configuration changes; what is wrong with one is
//! found here where it depends on who runs, and where it is applied where it depends on who there is. (etcd API, service
//! Cluster; etcdserver/server.go, AddMember and what follows.)

use std::{
    rc::Rc,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use prost::Message as _;

use super::{
    caller::Caller,
    service::{Services, decode, later, refuse},
};
use crate::{
    auth::Ask,
    config::url::{self, Url},
    error::{self, Status},
    grpc::{Frame, Unary},
    proto::{
        etcdserverpb::{
            Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
            MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
            MemberUpdateResponse, ResponseHeader,
        },
        raftpb::{ConfChange, ConfChangeType},
    },
    raft::identity,
    shard::{Shard, view::View},
    store::membership::{self, promotion_context},
};

pub fn member_list(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: MemberListRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    if !request.linearizable {
        return Unary::Ready(listed(&services, &caller, &services.shard.view()));
    }
    later(async move {
        let view = services.shard.linearizable().await?;
        listed(&services, &caller, &view)
    })
}

fn listed(services: &Services, caller: &Caller, view: &View) -> Result<Frame, Status> {
    services.authorize(caller, view, Ask::Known)?;
    Ok(Frame::of(&MemberListResponse { header: Some(header(&services.shard)), members: members(view) }))
}

pub fn member_add(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: MemberAddRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    let shard = services.shard.clone();
    let added = match urls(&request.peer_ur_ls) {
        Ok(peer_urls) => {
            let now_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            membership::Member {
                id: identity::added_member_id(&peer_urls, now_seconds),
                peer_urls,
                is_learner: request.is_learner,
                ..Default::default()
            }
        }
        Err(status) => return refuse(status),
    };
    let view = shard.view();
    // By that alone who may is decided: an entry that changes members names nobody.
    if let Err(status) = services.authorize(&caller, &view, Ask::Admin) {
        return refuse(status);
    }
    let strict = shard.member.config.strict_reconfig_check;
    if strict && !added.is_learner && !view.state.membership.may_add_voter() {
        return refuse(error::MEMBER_NOT_ENOUGH_STARTED);
    }
    let kind = match added.is_learner {
        true => ConfChangeType::ConfChangeAddLearnerNode,
        false => ConfChangeType::ConfChangeAddNode,
    };
    let context = serde_json::to_vec(&added).expect("a member has a JSON form");
    let change = Change { kind, member: added.id, context: context.into(), promotes: None };
    if !added.is_learner {
        // Logged, it would take the cluster's quorum away until a second member runs, for which there is no way in here.
        let fits = view.state.membership.check(&change.entry(0), view.state.learners_max());
        return refuse(fits.err().unwrap_or(error::SECOND_VOTER));
    }
    later(async move {
        let view = change.make(&shard).await?;
        let member =
            Member { id: added.id, peer_ur_ls: added.peer_urls, is_learner: added.is_learner, ..Default::default() };
        let (header, members) = (Some(header(&shard)), members(&view));
        Ok(Frame::of(&MemberAddResponse { header, member: Some(member), members }))
    })
}

pub fn member_remove(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let MemberRemoveRequest { id } = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    let shard = services.shard.clone();
    let view = shard.view();
    if let Err(status) = services.authorize(&caller, &view, Ask::Admin) {
        return refuse(status);
    }
    let known = &view.state.membership;
    let is_learner = known.get(id).is_some_and(|member| member.is_learner);
    let is_last = known.voters().all(|member| member.id == id);
    // The last one is never removed: etcd itself does not outlive that, whatever it was told not to check.
    if is_last || shard.member.config.strict_reconfig_check && !is_learner && !known.may_remove_voter(id) {
        return refuse(error::MEMBER_NOT_ENOUGH_STARTED);
    }
    let change =
        Change { kind: ConfChangeType::ConfChangeRemoveNode, member: id, context: Bytes::new(), promotes: None };
    later(async move {
        let view = change.make(&shard).await?;
        Ok(Frame::of(&MemberRemoveResponse { header: Some(header(&shard)), members: members(&view) }))
    })
}

pub fn member_update(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: MemberUpdateRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    let shard = services.shard.clone();
    if let Err(status) = services.authorize(&caller, &shard.view(), Ask::Admin) {
        return refuse(status);
    }
    let member = membership::Member { id: request.id, peer_urls: request.peer_ur_ls, ..Default::default() };
    let context = serde_json::to_vec(&member).expect("a member has a JSON form");
    let change = Change {
        kind: ConfChangeType::ConfChangeUpdateNode,
        member: request.id,
        context: context.into(),
        promotes: None,
    };
    // etcd takes any text for a URL here, and does not live on with what is none. Whatever else is wrong is told first, as
    // etcd tells it.
    if let Err(status) = urls(&member.peer_urls) {
        let view = shard.view();
        let fits = view.state.membership.check(&change.entry(0), view.state.learners_max());
        return refuse(fits.err().unwrap_or(status));
    }
    later(async move {
        let view = change.make(&shard).await?;
        Ok(Frame::of(&MemberUpdateResponse { header: Some(header(&shard)), members: members(&view) }))
    })
}

pub fn member_promote(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let MemberPromoteRequest { id } = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    later(async move {
        let view = promote(&services, &caller, id).await?;
        Ok(Frame::of(&MemberPromoteResponse { header: Some(header(&services.shard)), members: members(&view) }))
    })
}

/// Lets a learner vote, and gives the state in which it does.
pub async fn promote(services: &Services, caller: &Caller, id: u64) -> Result<Arc<View>, Status> {
    let shard = &services.shard;
    let change = Change {
        kind: ConfChangeType::ConfChangeAddNode,
        member: id,
        context: promotion_context(id).into(),
        promotes: Some(id),
    };
    let may = services.authorize(caller, &shard.view(), Ask::Admin);
    let promoted = match may {
        Ok(()) => change.make(shard).await,
        Err(status) => Err(status),
    };
    if let Err(status) = &promoted {
        shard.metrics.promote_failures.count(status);
    }
    promoted
}

/// A change of the members that is to be made.
struct Change {
    kind: ConfChangeType,
    member: u64,
    context: Bytes,
    /// The learner that is to vote.
    promotes: Option<u64>,
}

impl Change {
    /// As it is logged.
    fn entry(&self, id: u64) -> ConfChange {
        ConfChange {
            id: Some(id),
            r#type: Some(self.kind as i32),
            node_id: Some(self.member),
            // Left out where there is none, as Go leaves it out.
            context: (!self.context.is_empty()).then(|| self.context.clone()),
        }
    }

    /// Has it logged and applied, and gives the state in which the members are as it has made them.
    async fn make(self, shard: &Shard) -> Result<Arc<View>, Status> {
        let id = shard.member.next_id();
        let data = self.entry(id).encode_to_vec().into();
        let (result, view) = shard.configure(id, data, self.promotes).await?;
        result.map(|_| view)
    }
}

/// Peer URLs in order, each as it is told to others.
fn urls(texts: &[String]) -> Result<Vec<String>, Status> {
    let mut urls = texts
        .iter()
        .map(|text| url::parse(text).map(|url: Url| url.to_string()))
        .collect::<Result<Vec<String>, String>>()
        .map_err(|_| error::MEMBER_BAD_URLS)?;
    if urls.is_empty() {
        return Err(error::MEMBER_BAD_URLS);
    }
    urls.sort();
    Ok(urls)
}

fn members(view: &View) -> Vec<Member> {
    let told = |member: &membership::Member| Member {
        id: member.id,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    };
    view.state.membership.members().map(told).collect()
}

/// Cluster states no revision (etcd: v3rpc/member.go, header).
fn header(shard: &Shard) -> ResponseHeader {
    ResponseHeader {
        cluster_id: shard.member.cluster_id,
        member_id: shard.member.id,
        revision: 0,
        raft_term: shard.member.term(),
    }
}

#[cfg(test)]
mod tests;
