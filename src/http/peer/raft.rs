//! The ways that raft's messages take between members: one by one, in streams, with a snapshot; and the probes that tell how
//! long a way is. Each request says of which cluster and version its sender is, and goes no further where that does not fit.
//! (etcd: rafthttp/http.go and util.go; probing.)

use std::{
    io,
    ops::Range,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::join;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use prost::Message as _;
use time::{OffsetDateTime, UtcOffset};

use super::{CLUSTER_ID, Source, header as value_of, hex, of_cluster};
use crate::{
    http::{
        answer::{self, Answer, allow, error as refusal},
        body::{Body, Broken, Made},
    },
    limits, log,
    observe::log::hex as shown_hex,
    peers::{
        self, Brought, Outlet,
        body::{Fault, Reader},
    },
    proto::raftpb::{Message, MessageType},
    raft::{
        arriving::{self, Inlet, Piece, Received},
        mail::ReceivedSnapshot,
        sending::index_of,
    },
    runtime, version,
    wal::spool::{Spool, Spooled},
    wire::peer::Kind,
};

const SERVER_VERSION: HeaderName = HeaderName::from_static("x-server-version");
/// What a member says that says nothing: etcd 2.0 did not.
const UNSAID: &str = "2.0.0";

/// One message.
pub(super) async fn message(source: &dyn Source, request: Request<Incoming>) -> Answer {
    if request.method() != Method::POST {
        return allow("POST");
    }
    let answer = match check(source, &request) {
        Ok(()) => {
            meet(source, &request);
            one(source, request.into_body()).await
        }
        Err(why) => refusal(StatusCode::PRECONDITION_FAILED, why),
    };
    of_cluster(source, answer)
}

async fn one(source: &dyn Source, body: Incoming) -> Answer {
    let local = source.member_id();
    let bytes = match Reader::new(body).whole(limits::PEER_MESSAGE_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(fault) => {
            let error = fault.text();
            log!(Warn, "failed to read Raft message", "local-member-id" = shown_hex(local), "error" = error);
            return refusal(StatusCode::BAD_REQUEST, "error reading raft message");
        }
    };
    let message = match Message::decode(bytes) {
        Ok(message) => message,
        Err(cause) => {
            let error = cause.to_string();
            log!(Warn, "failed to unmarshal Raft message", "local-member-id" = shown_hex(local), "error" = error);
            return refusal(StatusCode::BAD_REQUEST, "error unmarshalling raft message");
        }
    };
    match hear(source, &message) {
        Ok(()) => {
            source.bring(Brought::Message(Box::new(message)));
            taken()
        }
        Err(why) => {
            log!(Warn, "failed to process Raft message", "local-member-id" = shown_hex(local), "error" = why);
            let body = Body::made(Cut::after("error processing raft message\n"));
            let mut answer = refusal(StatusCode::INTERNAL_SERVER_ERROR, "");
            *answer.body_mut() = body;
            answer
        }
    }
}

/// A message, and a database behind it.
pub(super) async fn snapshot(source: &dyn Source, request: Request<Incoming>) -> Answer {
    if request.method() != Method::POST {
        return allow("POST");
    }
    let answer = match check(source, &request) {
        Ok(()) => {
            let changes = arriving::announced(value_of(&request, arriving::CHANGES_HEADER));
            with_database(source, changes, Reader::new(request.into_body())).await
        }
        Err(why) => refusal(StatusCode::PRECONDITION_FAILED, why),
    };
    of_cluster(source, answer)
}

/// `changes`: on which pages they are, if the sender says so.
async fn with_database(source: &dyn Source, changes: Option<Range<u64>>, mut reader: Reader) -> Answer {
    let local = source.member_id();
    let message = match head(&mut reader).await {
        Ok(message) => message,
        Err(error) => {
            log!(Warn, "failed to decode Raft message", "local-member-id" = shown_hex(local), "error" = error);
            return refusal(StatusCode::BAD_REQUEST, &format!("failed to decode raft message ({error})"));
        }
    };
    let from = message.from.unwrap_or_default();
    if message.r#type() != MessageType::MsgSnap {
        log!(
            Warn,
            "unexpected Raft message type",
            "local-member-id" = shown_hex(local),
            "remote-snapshot-sender-id" = shown_hex(from),
            "message-type" = message.r#type().as_str_name()
        );
        return refusal(StatusCode::BAD_REQUEST, "wrong raft message type");
    }
    // Before the database is read, which may be large.
    if let Err(why) = hear(source, &message) {
        log!(Warn, "failed to process Raft message", "local-member-id" = shown_hex(local), "error" = why);
        return refusal(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed to process raft message ({why})"));
    }
    let (began, index) = (runtime::now(), index_of(&message));
    let size = message.encoded_len();
    log!(
        Info,
        "receiving database snapshot",
        "local-member-id" = shown_hex(local),
        "remote-snapshot-sender-id" = shown_hex(from),
        "incoming-snapshot-index" = index,
        "incoming-snapshot-message-size-bytes" = size as u64,
        "incoming-snapshot-message-size" = metric_size(size as u64)
    );
    let all_came = |bytes: u64| {
        log!(
            Info,
            "received and saved database snapshot",
            "local-member-id" = shown_hex(local),
            "remote-snapshot-sender-id" = shown_hex(from),
            "incoming-snapshot-index" = index,
            "incoming-snapshot-size-bytes" = bytes,
            "incoming-snapshot-size" = metric_size(bytes),
            "download-took" = runtime::now() - began
        );
    };
    let install = |database| source.install(ReceivedSnapshot { message, database, began });
    let installed = match (source.spool().await, changes) {
        (Err(cause), _) => Err(cause.to_string()),
        (Ok(spool), None) => match save(spool, reader).await {
            Ok(database) => {
                all_came(database.bytes());
                Ok(install(Received::Whole(database)).await)
            }
            Err(error) => Err(error),
        },
        (Ok(spool), Some(changes)) => {
            let (inlet, arriving) = arriving::arriving(changes, spool);
            let coming = async { bring_in(reader, inlet).await.map(all_came).map_err(|fault| fault.text().to_owned()) };
            let (came, installed) = join(coming, install(Received::Arriving(arriving))).await;
            came.map(|()| installed)
        }
    };
    match installed {
        Ok(Ok(())) => taken(),
        Ok(Err(status)) => {
            let error = &*status.message;
            log!(
                Warn,
                "failed to process Raft message",
                "local-member-id" = shown_hex(local),
                "remote-snapshot-sender-id" = shown_hex(from),
                "error" = error
            );
            refusal(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed to process raft message ({error})"))
        }
        Err(error) => {
            log!(
                Warn,
                "failed to save incoming database snapshot",
                "local-member-id" = shown_hex(local),
                "remote-snapshot-sender-id" = shown_hex(from),
                "incoming-snapshot-index" = index,
                "error" = error.as_str()
            );
            refusal(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed to save KV snapshot ({error})"))
        }
    }
}

/// Puts a database into a file as it comes. A piece is written while the next one comes.
async fn save(mut spool: Spool, mut reader: Reader) -> Result<Spooled, String> {
    let text = |cause: io::Error| cause.to_string();
    let mut next = reader.piece(limits::SPOOL_PIECE_BYTES).await.map_err(Fault::text)?;
    while let Some(piece) = next {
        let writing = runtime::bulk(move || spool.write(&piece).map(|()| spool));
        let (written, read) = join(writing, reader.piece(limits::SPOOL_PIECE_BYTES)).await;
        spool = written.map_err(text)?;
        next = read.map_err(Fault::text)?;
    }
    runtime::bulk(move || spool.finish()).await.map_err(text)
}

/// Hands a database on as it comes, and gives how many bytes have come. It is read to its end also where nobody takes it any
/// more, for its sender hears nothing before.
async fn bring_in(mut reader: Reader, mut inlet: Inlet) -> Result<u64, Fault> {
    let mut bytes = 0;
    loop {
        let mut piece = inlet.room();
        reader.fill(&mut piece, limits::SPOOL_PIECE_BYTES).await?;
        let is_last = piece.len() < limits::SPOOL_PIECE_BYTES;
        bytes += piece.len() as u64;
        inlet.send(Piece::Bytes(piece)).await;
        if is_last {
            inlet.send(Piece::End).await;
            return Ok(bytes);
        }
    }
}

/// Bytes as etcd's logs have them for people: in thousands, with one digit behind the point below ten. (Go:
/// dustin/go-humanize, Bytes.)
fn metric_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let power = (bytes as f64).log(1000.0).floor();
    let value = (bytes as f64 / 1000f64.powf(power) * 10.0 + 0.5).floor() / 10.0;
    let unit = UNITS[power as usize];
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// The message in front of a database: its length, 8 bytes with the highest in front, and its bytes.
async fn head(reader: &mut Reader) -> Result<Message, &'static str> {
    let length = reader.take(8).await.map_err(Fault::text)?;
    let length = u64::from_be_bytes((*length).try_into().expect("as many as were asked for"));
    let length = usize::try_from(length).ok().filter(|length| *length <= limits::PEER_MESSAGE_BYTES_MAX);
    let length = length.ok_or("rafthttp: error limit exceeded")?;
    let bytes = reader.take(length).await.map_err(Fault::text)?;
    Message::decode(bytes).map_err(|_| "proto: cannot parse invalid wire-format data")
}

/// Whether a message is for this member, of one that may still send it any.
fn hear(source: &dyn Source, message: &Message) -> Result<(), &'static str> {
    let (local, from, to) = (source.member_id(), message.from.unwrap_or_default(), message.to.unwrap_or_default());
    if source.is_removed(from) {
        log!(
            Warn,
            "rejected Raft message from removed member",
            "local-member-id" = shown_hex(local),
            "removed-member-id" = shown_hex(from)
        );
        return Err("cannot process message from removed member");
    }
    if to != local {
        log!(
            Warn,
            "rejected Raft message to mismatch member",
            "local-member-id" = shown_hex(local),
            "mismatch-member-id" = shown_hex(to)
        );
        return Err("cannot process message to mismatch member");
    }
    Ok(())
}

/// 204.
fn taken() -> Answer {
    let mut answer = answer::empty();
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// Whoever says where it is can be answered, also if nothing that is applied here names it yet.
fn meet<B>(source: &dyn Source, request: &Request<B>) {
    let (from, urls) = (value_of(request, "x-server-from"), value_of(request, "x-peerurls"));
    if let Some(id) = id_of(from).filter(|id| !urls.is_empty() && !source.knows(*id)) {
        source.bring(Brought::Stranger(id, urls.split(',').map(str::to_owned).collect()));
    }
}

/// An id as members write it.
fn id_of(text: &str) -> Option<u64> {
    let is_hex = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| is_hex)
}

/// A stream of messages that another member asks for.
pub(super) fn stream<B>(source: &dyn Source, request: &Request<B>, path: &str) -> Answer {
    if request.method() != Method::GET {
        return allow("GET");
    }
    let (status, why) = match check(source, request) {
        Ok(()) => match asked(source, request, path) {
            Ok((from, kind)) => {
                let (inlet, outlet) = peers::stream();
                source.bring(Brought::Stream(from, kind, inlet));
                let mut answer = of_cluster(source, Answer::new(Body::made(Streamed(outlet))));
                answer.headers_mut().insert(SERVER_VERSION, HeaderValue::from_static(version::ETCD));
                return answer;
            }
            Err(refused) => refused,
        },
        Err(why) => (StatusCode::PRECONDITION_FAILED, why),
    };
    let mut answer = of_cluster(source, refusal(status, why));
    answer.headers_mut().insert(SERVER_VERSION, HeaderValue::from_static(version::ETCD));
    answer
}

/// Who asks for which stream.
fn asked<B>(source: &dyn Source, request: &Request<B>, path: &str) -> Result<(u64, Kind), (StatusCode, &'static str)> {
    let local = source.member_id();
    let (way, from) = path.rsplit_once('/').expect("the path begins with one");
    // Where there is nothing behind the last slash the part before it is meant (Go: path.Base).
    let from = match from {
        "" => way.rsplit_once('/').map_or(way, |(_, part)| part),
        from => from,
    };
    let kind = match way {
        "/raft/stream/message" => Kind::Messages,
        "/raft/stream/msgapp" => Kind::Appends,
        _ => return Err((StatusCode::NOT_FOUND, "invalid path")),
    };
    let Some(id) = id_of(from) else {
        log!(Warn, "failed to parse path into ID", "local-member-id" = shown_hex(local), "path" = from);
        return Err((StatusCode::NOT_FOUND, "invalid from"));
    };
    if source.is_removed(id) {
        log!(
            Warn,
            "rejected stream from remote peer because it was removed",
            "local-member-id" = shown_hex(local),
            "remote-peer-id-from" = shown_hex(id)
        );
        return Err((StatusCode::GONE, "removed member"));
    }
    if !source.knows(id) {
        meet(source, request);
        log!(
            Warn,
            "failed to find remote peer in cluster",
            "local-member-id" = shown_hex(local),
            "remote-peer-id-from" = shown_hex(id),
            "cluster-id" = shown_hex(source.cluster_id())
        );
        return Err((StatusCode::NOT_FOUND, "error sender not found"));
    }
    let to = value_of(request, "x-raft-to");
    if to != hex(local) {
        log!(
            Warn,
            "ignored streaming request; ID mismatch",
            "local-member-id" = shown_hex(local),
            "remote-peer-id-header" = to,
            "remote-peer-id-from" = shown_hex(id),
            "cluster-id" = shown_hex(source.cluster_id())
        );
        return Err((StatusCode::PRECONDITION_FAILED, "to field mismatch"));
    }
    Ok((id, kind))
}

/// The body of a stream, which ends when the raft core's side does.
struct Streamed(Outlet);

impl Made for Streamed {
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        self.0.poll_piece(context).map(|piece| piece.map(Ok))
    }
}

/// Whether the sender is of this cluster, and of a version that goes with this member's.
fn check<B>(source: &dyn Source, request: &Request<B>) -> Result<(), &'static str> {
    let said = |name: &str| match value_of(request, name) {
        "" => UNSAID,
        said => said,
    };
    let (server, min_cluster) = (said(SERVER_VERSION.as_str()), said("x-min-cluster-version"));
    if let Err(why) = is_compatible(server, min_cluster) {
        log!(
            Warn,
            "failed version compatibility check",
            "local-member-id" = shown_hex(source.member_id()),
            "local-member-server-version" = version::ETCD,
            "remote-peer-server-name" = value_of(request, "x-server-from"),
            "remote-peer-server-version" = server,
            "remote-peer-server-minimum-cluster-version" = min_cluster,
            "error" = why
        );
        return Err("incompatible version");
    }
    let cluster = value_of(request, CLUSTER_ID.as_str());
    if cluster != hex(source.cluster_id()) {
        log!(
            Warn,
            "request cluster ID mismatch",
            "local-member-id" = shown_hex(source.member_id()),
            "local-member-cluster-id" = shown_hex(source.cluster_id()),
            "remote-peer-server-name" = value_of(request, "x-server-from"),
            "remote-peer-cluster-id" = cluster
        );
        return Err("cluster ID mismatch");
    }
    Ok(())
}

/// Compared are major and minor numbers.
fn is_compatible(server: &str, min_cluster: &str) -> Result<(), &'static str> {
    let (Some(server), Some(min_cluster)) = (version::parse(server), version::parse(min_cluster)) else {
        return Err("the remote version is none");
    };
    if Some(server) < version::parse(version::MIN_CLUSTER) {
        return Err("remote version is too low");
    }
    match Some(min_cluster) > version::parse(version::ETCD) {
        true => Err("local version is too low"),
        false => Ok(()),
    }
}

pub(super) fn probing() -> Answer {
    let now = OffsetDateTime::now_utc();
    let east = runtime::seconds_east_of_utc(now.unix_timestamp());
    let offset = UtcOffset::from_whole_seconds(east as i32).unwrap_or(UtcOffset::UTC);
    answer::sniffed(format!("{{\"OK\":true,\"Now\":\"{}\"}}\n", rfc3339(now.to_offset(offset))))
}

/// As Go writes it: no zeros at the end of a fraction.
fn rfc3339(at: OffsetDateTime) -> String {
    let (date, time) = (at.date(), at.time());
    let fraction = match time.nanosecond() {
        0 => String::new(),
        nanoseconds => format!(".{nanoseconds:09}").trim_end_matches('0').to_owned(),
    };
    let (hours, minutes, _) = at.offset().as_hms();
    let zone = if at.offset().is_utc() {
        "Z".to_owned()
    } else {
        let sign = if at.offset().is_negative() { '-' } else { '+' };
        format!("{sign}{:02}:{:02}", hours.unsigned_abs(), minutes.unsigned_abs())
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{fraction}{zone}",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// A text, and then the end of the connection: what etcd does where it is told something that it cannot work on.
struct Cut {
    text: Option<Bytes>,
    is_out: bool,
}

impl Cut {
    fn after(text: &'static str) -> Self {
        Cut { text: Some(Bytes::from_static(text.as_bytes())), is_out: false }
    }
}

impl Made for Cut {
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        if let Some(text) = self.text.take() {
            return Poll::Ready(Some(Ok(text)));
        }
        if !self.is_out {
            // It has been written when this is asked again.
            self.is_out = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(Broken)))
    }
}

#[cfg(test)]
mod tests {
    use time::{Date, Month};

    use super::*;

    #[test]
    fn versions_are_compared_as_etcd_compares_them() {
        for (server, min_cluster) in
            [("3.7.3", "3.0.0"), ("3.0.0", "2.0.0"), ("4.1.0", "3.7.9"), ("3.8.0-pre+x", "3.7.0")]
        {
            assert_eq!(is_compatible(server, min_cluster), Ok(()), "{server} {min_cluster}");
        }
        for (server, min_cluster) in
            [("2.9.9", "2.0.0"), ("2.0.0", "2.0.0"), ("3.8.0", "3.8.0"), ("3.7", "3.0.0"), ("x", "y")]
        {
            is_compatible(server, min_cluster).unwrap_err();
        }
    }

    /// What the package that etcd uses makes of them.
    #[test]
    fn sizes_are_written_as_etcds_logs_write_them() {
        let cases = [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1049, "1.0 kB"),
            (1050, "1.1 kB"),
            (20_480, "20 kB"),
            (82_854_982, "83 MB"),
            (2_147_483_648, "2.1 GB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(metric_size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        let day = Date::from_calendar_date(2026, Month::November, 9).unwrap();
        let at = |nanoseconds| day.with_hms_nano(3, 4, 5, nanoseconds).unwrap().assume_utc();
        assert_eq!(rfc3339(at(0)), "2026-11-09T03:04:05Z");
        assert_eq!(rfc3339(at(120_000_000)), "2026-11-09T03:04:05.12Z");
        let east = UtcOffset::from_hms(5, 30, 0).unwrap();
        assert_eq!(rfc3339(at(7).replace_offset(east)), "2026-11-09T03:04:05.000000007+05:30");
        let west = UtcOffset::from_hms(-3, -30, 0).unwrap();
        assert_eq!(rfc3339(at(7).replace_offset(west)), "2026-11-09T03:04:05.000000007-03:30");
    }
}
