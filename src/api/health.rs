//! The standard health service of gRPC. etcd tells one service, the empty name, and serves as long as it runs.
//! (gRPC health checking protocol; grpc-go's health server for the answers to other names.)

use std::rc::Rc;

use bytes::Bytes;

use super::{
    caller::Caller,
    service::{Served, Services, decode, only_request, refuse},
};
use crate::{
    error::{self, Status},
    grpc::{
        Call, Frame, Unary,
        stream::{Replies, Requests},
    },
    proto::grpc::health::v1::{
        HealthCheckRequest, HealthCheckResponse, HealthListRequest, health_check_response::ServingStatus,
    },
};

fn serving(service: &str) -> Option<HealthCheckResponse> {
    service.is_empty().then_some(HealthCheckResponse { status: ServingStatus::Serving as i32 })
}

pub fn check(_: Rc<Services>, _: Caller, message: Bytes) -> Unary {
    let result = decode::<HealthCheckRequest>(message)
        .and_then(|request| serving(&request.service).ok_or(error::HEALTH_UNKNOWN_SERVICE));
    Unary::Ready(result.map(|response| Frame::of(&response)))
}

pub fn list(_: Rc<Services>, _: Caller, message: Bytes) -> Unary {
    if let Err(status) = decode::<HealthListRequest>(message) {
        return refuse(status);
    }
    // One entry of the map; by hand, for Go writes an empty key out.
    const SERVING: &[u8] = b"\x0a\x06\x0a\x00\x12\x02\x08\x01";
    let mut frame = Frame::with_capacity(SERVING.len());
    frame.buffer().extend_from_slice(SERVING);
    Unary::Ready(Ok(frame))
}

/// Tells the status once and then nothing, for it does not change; of another name, that it is unknown.
pub fn watch(_: Rc<Services>, _: Call, requests: Requests, replies: Replies) -> Served {
    Box::pin(serve_watch(requests, replies))
}

async fn serve_watch(mut requests: Requests, mut replies: Replies) -> Result<(), Status> {
    let request: HealthCheckRequest = only_request(&mut requests).await?;
    let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown as i32 };
    let response = serving(&request.service).unwrap_or(unknown);
    let _ = replies.send([Frame::of(&response).seal()]);
    // The status never changes; the layer drops this when the stream ends.
    std::future::pending().await
}
