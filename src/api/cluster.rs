//! Cluster: who belongs to it. (etcd API, service Cluster.)

use std::rc::Rc;

use bytes::Bytes;

use super::{
    caller::Caller,
    service::{Services, decode, later, refuse},
};
use crate::{
    auth::Ask,
    error::Status,
    grpc::{Frame, Unary},
    proto::etcdserverpb::{Member, MemberListRequest, MemberListResponse, ResponseHeader},
    shard::view::View,
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
    let member = &services.shard.member;
    let members = view
        .state
        .membership
        .members()
        .map(|member| Member {
            id: member.id,
            name: member.name.clone(),
            peer_ur_ls: member.peer_urls.clone(),
            client_ur_ls: member.client_urls.clone(),
            is_learner: member.is_learner,
        })
        .collect();
    // Cluster states no revision (etcd: v3rpc/member.go, header).
    let header =
        ResponseHeader { cluster_id: member.cluster_id, member_id: member.id, revision: 0, raft_term: member.term() };
    Ok(Frame::of(&MemberListResponse { header: Some(header), members }))
}
