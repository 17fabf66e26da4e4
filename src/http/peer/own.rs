//! What only members of this kind ask each other. An etcd member answers 404, and so is not asked for more.

use std::collections::BTreeMap;

use http::{Method, Request};

use super::{Source, json, of_another_cluster, of_cluster, ok};
use crate::http::answer::{Answer, allow};

const JSON: &str = "application/json";

/// What the last spans of entries did to this member's state: each span by its last entry.
pub(super) fn spans<B>(source: &dyn Source, request: &Request<B>) -> Answer {
    if request.method() != Method::GET {
        return allow("GET");
    }
    if let Some(refused) = of_another_cluster(source, request) {
        return refused;
    }
    let spans: BTreeMap<u64, u32> = source.spans().into_iter().map(|span| (span.last, span.hash)).collect();
    of_cluster(source, ok(JSON, json(&spans)))
}
