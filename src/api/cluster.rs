//! Cluster: who belongs to it. (etcd API, service Cluster.)

use std::rc::Rc;

use bytes::Bytes;

use super::service::{Services, decode, later, refuse};
use crate::{
    grpc::{Frame, Unary},
    proto::etcdserverpb::{Member, MemberListRequest, MemberListResponse, ResponseHeader},
    shard::{Shard, view::View},
};

pub fn member_list(services: Rc<Services>, message: Bytes) -> Unary {
    let request: MemberListRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    if !request.linearizable {
        return Unary::Ready(Ok(listed(&services.shard, &services.shard.view())));
    }
    later(async move {
        let view = services.shard.linearizable().await?;
        Ok(listed(&services.shard, &view))
    })
}

fn listed(shard: &Shard, view: &View) -> Frame {
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
    let header = ResponseHeader {
        cluster_id: shard.member.cluster_id,
        member_id: shard.member.id,
        revision: 0,
        raft_term: shard.member.term(),
    };
    Frame::of(&MemberListResponse { header: Some(header), members })
}
