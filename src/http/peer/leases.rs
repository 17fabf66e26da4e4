//! Leases, which the member that leads looks after for the others. What is committed is applied here in the same turn, so
//! that nothing has to be waited for. (etcd: lease/leasehttp/http.go.)

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::{body::Incoming, ext::ReasonPhrase};
use prost::Message;

use super::{Source, ok};
use crate::{
    error::{self, Status},
    http::answer::{Answer, error as refusal},
    limits,
    peers::body::{Fault, Reader},
    proto::{
        etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse},
        leasepb::{LeaseInternalRequest, LeaseInternalResponse},
    },
};

const PROTOBUF: &str = "application/protobuf";

pub(super) async fn renew(source: &dyn Source, request: Request<Incoming>) -> Answer {
    let LeaseKeepAliveRequest { id } = match read(request).await {
        Ok(request) => request,
        Err(answer) => return answer,
    };
    match source.renew(id).await {
        Ok(ttl) => ok(PROTOBUF, LeaseKeepAliveResponse { header: None, id, ttl }.encode_to_vec()),
        Err(status) => refused(&status, StatusCode::BAD_REQUEST),
    }
}

pub(super) async fn time_to_live(source: &dyn Source, request: Request<Incoming>) -> Answer {
    let request: LeaseInternalRequest = match read(request).await {
        Ok(request) => request,
        Err(answer) => return answer,
    };
    let Some(asked) = request.lease_time_to_live_request else { return undecodable() };
    match source.time_to_live(asked.id, asked.keys).await {
        Ok(told) => {
            let response = LeaseInternalResponse { lease_time_to_live_response: Some(told) };
            ok(PROTOBUF, response.encode_to_vec())
        }
        Err(status) => refused(&status, StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn read<M: Message + Default>(request: Request<Incoming>) -> Result<M, Answer> {
    if request.method() != Method::POST {
        return Err(refusal(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"));
    }
    let body: Bytes = match Reader::new(request.into_body()).whole(limits::PEER_REQUEST_BYTES_MAX).await {
        Ok(body) => body,
        Err(Fault::TooLarge) => {
            let mut answer = refusal(StatusCode::PAYLOAD_TOO_LARGE, "request body too large");
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            answer.extensions_mut().insert(ReasonPhrase::from_static(b"Request Entity Too Large"));
            return Err(answer);
        }
        Err(_) => return Err(refusal(StatusCode::BAD_REQUEST, "error reading body")),
    };
    M::decode(body).map_err(|_| undecodable())
}

fn undecodable() -> Answer {
    refusal(StatusCode::BAD_REQUEST, "error unmarshalling request")
}

fn refused(status: &Status, otherwise: StatusCode) -> Answer {
    match *status == error::LEASE_NOT_FOUND {
        true => refusal(StatusCode::NOT_FOUND, "lease not found"),
        false => refusal(otherwise, &status.message),
    }
}
