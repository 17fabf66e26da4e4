//! Puts of keys 0 to N, once each, as fast as they are taken.

use super::{Site, calls};
use crate::{
    measure::Outcome,
    plan::{Plan, Workload},
};

/// The workload: what a data set of a known size takes.
pub async fn load(site: &Site, plan: &Plan) -> Result<Outcome, String> {
    calls::closed(site, &Plan { operations: Some(plan.keys), ..plan.clone() }).await
}

/// The keys that other workloads need.
pub async fn fill(site: &Site, keys: u64, value_bytes: usize) -> Result<(), String> {
    let plan = Plan { workload: Workload::Load, keys, value_bytes, ..Plan::default() };
    load(site, &plan).await.map(drop)
}
