//! Values for a member that cannot read its own any more. urd's own: an etcd is never asked, and would not know the path.

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use super::{Source, of_another_cluster, of_cluster, ok};
use crate::{
    http::answer::{Answer, allow, error as refusal},
    limits,
    peers::body::Reader,
    store::types::Revision,
};

/// Asked for are events, by main and sub-revision: `[[7,0],[9,2]]`.
pub(super) async fn tell(source: &dyn Source, request: Request<Incoming>) -> Answer {
    if request.method() != Method::POST {
        return allow("POST");
    }
    if let Some(refused) = of_another_cluster(source, &request) {
        return refused;
    }
    let Ok(body) = Reader::new(request.into_body()).whole(limits::PEER_REQUEST_BYTES_MAX).await else {
        return refusal(StatusCode::BAD_REQUEST, "error reading body");
    };
    let asked: Vec<(i64, i64)> = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(_) => return refusal(StatusCode::BAD_REQUEST, "error unmarshalling request"),
    };
    if asked.len() > limits::MEND_VALUES_MAX {
        return refusal(StatusCode::BAD_REQUEST, "too many values at once");
    }
    let asked = asked.into_iter().map(|(main, sub)| Revision::new(main, sub)).collect();
    of_cluster(source, ok("application/octet-stream", source.values(asked).await))
}
