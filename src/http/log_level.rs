//! `/urd/log/level`: the least level that is logged, told and changed while the member runs. etcd has nothing like it
//! and answers 404 there. It is for operators: once users are asked for, for root alone, as Defragment is; it is not on
//! the metrics listeners, which know no users. What is set holds until the process ends.

use http::{HeaderMap, Method, StatusCode, header};

use super::{
    Site,
    answer::{self, Answer},
    gateway,
    path::Query,
};
use crate::{
    grpc::Metadata,
    log,
    observe::log::{Level, level, set_level},
};

/// GET tells the level, PUT with `?level=debug` sets it and tells it.
pub(super) fn answer(site: &Site, method: &Method, headers: &HeaderMap, query: &Query) -> Answer {
    if !matches!(*method, Method::GET | Method::PUT) {
        return answer::allow("GET, PUT");
    }
    let shown = headers.get(header::AUTHORIZATION).map(|value| ("authorization", value.as_bytes()));
    if let Err(status) = site.source.operates(Metadata::of_pairs(shown), site.security.certified.clone()) {
        let mut answer = answer::error(StatusCode::OK, &status.message);
        gateway::set_status(&mut answer, status.code);
        return answer;
    }
    if *method == Method::PUT {
        let wanted = match query.first("level") {
            // That etcd takes none for info is for flags.
            None | Some("") => Err("a level is wanted: PUT /urd/log/level?level=debug".to_owned()),
            Some(text) => Level::parse(text),
        };
        match wanted {
            Ok(wanted) => set(wanted),
            Err(why) => return answer::error(StatusCode::BAD_REQUEST, &why),
        }
    }
    answer::json("application/json", format!("{{\"level\":\"{}\"}}\n", level().name()))
}

fn set(wanted: Level) {
    let before = level();
    // The line about it is written where the lower of the two levels lets it through.
    set_level(before.min(wanted));
    log!(Info, "the log's level was changed", "from" = before.name(), "to" = wanted.name());
    set_level(wanted);
}
