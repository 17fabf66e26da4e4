//! `/health`, and the named checks of `/livez` and `/readyz`. (etcd: etcdhttp/health.go.)

use std::fmt::Write as _;

use http::{Method, StatusCode};
use serde::Serialize;

use super::{
    Alarm, Source,
    answer::{Answer, allow_get, error, not_found, sniffed, text},
    path::Query,
};
use crate::{log, observe::metrics::health::Check};

#[derive(Serialize)]
struct Health<'a> {
    health: &'a str,
    reason: &'a str,
}

/// Alarms first, then the leader, then a read; with `serializable=true` the member alone is asked.
pub(super) async fn health(source: &dyn Source, method: &Method, query: &Query) -> Answer {
    if method != Method::GET {
        log!(Warn, "/health error", "status-code" = StatusCode::METHOD_NOT_ALLOWED.as_u16());
        return allow_get();
    }
    let reason = unhealthy(source, query).await;
    source.health_metrics().count_health(reason.is_none());
    let health = Health {
        health: if reason.is_none() { "true" } else { "false" },
        reason: reason.as_deref().unwrap_or_default(),
    };
    let body = serde_json::to_string(&health).expect("two texts have a JSON form");
    if reason.is_none() {
        log!(Debug, "/health OK", "status-code" = 200_u16);
        return sniffed(body);
    }
    log!(Warn, "/health error", "output" = body, "status-code" = StatusCode::SERVICE_UNAVAILABLE.as_u16());
    error(StatusCode::SERVICE_UNAVAILABLE, &body)
}

async fn unhealthy(source: &dyn Source, query: &Query) -> Option<String> {
    let excluded = |alarm: &Alarm| query.all("exclude").any(|name| name == alarm.name());
    if let Some(alarm) = source.alarms().into_iter().find(|alarm| !excluded(alarm)) {
        return Some(format!("ALARM {}", alarm.name()));
    }
    let serializable = query.first("serializable") == Some("true");
    if !serializable && !source.has_leader() {
        return Some("RAFT NO LEADER".into());
    }
    match source.read(!serializable).await {
        Ok(()) => None,
        Err(status) => Some(format!("RANGE ERROR:{}", status.message)),
    }
}

/// All checks of a kind, or the one that the path goes on to name.
pub(super) async fn checks(source: &dyn Source, method: &Method, path: &str, query: &Query) -> Answer {
    let mut parts = path[1..].splitn(2, '/');
    let (kind, name) = (parts.next(), parts.next());
    let of_kind = Check::ALL.into_iter().filter(|check| Some(check.kind()) == kind);
    let wanted: Vec<Check> = of_kind.filter(|check| name.is_none_or(|name| name == check.name())).collect();
    if wanted.is_empty() {
        return not_found();
    }
    if method != Method::GET {
        log!(Warn, "Health request error", "path" = path, "status-code" = StatusCode::METHOD_NOT_ALLOWED.as_u16());
        return allow_get();
    }
    // Only the list of all can be cut down.
    let excluded: Vec<&str> = match name {
        None => query.all("exclude").filter(|name| !name.is_empty()).collect(),
        Some(_) => Vec::new(),
    };
    let unknown: Vec<&str> =
        excluded.iter().copied().filter(|name| wanted.iter().all(|check| check.name() != *name)).collect();
    if !unknown.is_empty() {
        log!(Warn, "some health checks cannot be excluded", "missing-health-checks" = unknown);
    }

    let mut list = String::new();
    let mut failed = false;
    for check in wanted.into_iter().filter(|check| !excluded.contains(&check.name())) {
        let result = run(source, check).await;
        source.health_metrics().count_check(check, result.is_ok());
        let _ = match &result {
            Ok(()) => writeln!(list, "[+]{} ok", check.name()),
            Err(reason) => writeln!(list, "[-]{} failed: {reason}", check.name()),
        };
        failed |= result.is_err();
    }
    if failed {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        log!(Error, "Health check error", "path" = path, "reason" = list, "status-code" = status.as_u16());
        return error(status, &list);
    }
    if !query.has("verbose") {
        list.clear();
    }
    list.push_str("ok\n");
    text(list)
}

async fn run(source: &dyn Source, check: Check) -> Result<(), String> {
    let read = async |linearizable| source.read(linearizable).await.map_err(|status| status.message.into_owned());
    match check {
        Check::LiveSerializableRead | Check::ReadySerializableRead => read(false).await,
        Check::ReadyLinearizableRead => read(true).await,
        Check::ReadyDataCorruption if source.alarms().contains(&Alarm::Corrupt) => {
            Err("alarm activated: CORRUPT".into())
        }
        Check::ReadyNonLearner if source.is_learner() => Err("not supported for learner".into()),
        Check::ReadyDataCorruption | Check::ReadyNonLearner => Ok(()),
    }
}
