//! Calls from within the process: they end, are counted and are held back as those that come by HTTP/2.

use std::{
    collections::VecDeque,
    task::Context,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    error::Code,
    grpc::local::{Local, LocalCall, Messages},
    limits,
};

/// Messages that have come; more may.
#[derive(Clone, Default)]
struct Given {
    messages: Rc<RefCell<VecDeque<Bytes>>>,
    closed: Rc<Cell<bool>>,
}

impl Messages for Given {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        match self.messages.borrow_mut().pop_front() {
            Some(message) => Poll::Ready(Some(Ok(message))),
            None if self.closed.get() => Poll::Ready(None),
            None => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

fn local(server: &Server) -> Local {
    Local { handler: server.service.clone(), settings: server.settings.clone(), drain: server.drain.clone() }
}

fn order(local: &Local, path: &str, deadline: Option<Instant>) -> (Route, Call) {
    let metadata = Metadata::of_pairs([("x", &b"1"[..])]);
    (local.handler.route(path).unwrap(), Call { metadata, origin: Origin::default(), deadline, span: None })
}

fn unary(server: &Server, path: &str, message: &'static [u8]) -> LocalCall {
    let local = local(server);
    let (route, call) = order(&local, path, None);
    local.unary(route, call, Bytes::from_static(message))
}

async fn part(call: &mut LocalCall) -> Result<Option<Bytes>, Status> {
    poll_fn(|context| call.poll_part(context)).await
}

/// All that a call sends, and how it ends.
async fn all(call: &mut LocalCall) -> (Bytes, Option<Status>) {
    let mut bytes = BytesMut::new();
    loop {
        match part(call).await {
            Ok(Some(part)) => bytes.extend_from_slice(&part),
            Ok(None) => return (bytes.freeze(), None),
            Err(status) => return (bytes.freeze(), Some(status)),
        }
    }
}

#[test]
fn a_unary_call_gives_its_answer_or_its_status() {
    run(async {
        let server = Server::new();
        assert_eq!(all(&mut unary(&server, "/test.Echo/Echo", b"one")).await, (prefixed(0, b"one"), None));
        assert_eq!(server.service.metadata.borrow().get("x"), Some(&b"1"[..]));
        assert_eq!(all(&mut unary(&server, "/test.Echo/Fail", b"")).await, (Bytes::new(), Some(error::NO_LEADER)));
        let mut late = unary(&server, "/test.Echo/Late", b"two");
        assert_eq!(server.settings.counters.requests_active.get(), 1);
        assert!(poll_fn(|context| Poll::Ready(late.poll_part(context).is_pending())).await);
        server.service.gate.open();
        assert_eq!(all(&mut late).await, (prefixed(0, b"two"), None));
        // It says so again.
        assert_eq!(part(&mut late).await, Ok(None));
        drop(late);
        let counters = &server.settings.counters;
        for (method, code) in [(0, Code::Ok), (1, Code::Ok), (3, Code::Unavailable)] {
            let counted = &counters.methods[method];
            assert_eq!((counted.started.get(), counted.received.get(), server.handled(method, code)), (1, 1, 1));
        }
        assert_eq!((counters.methods[0].sent.get(), counters.methods[3].sent.get()), (1, 0));
        assert_eq!((counters.client_received_bytes.get(), counters.client_sent_bytes.get()), (6, 6));
        assert_eq!(counters.requests_active.get(), 0);
    });
}

#[test]
fn a_call_that_is_dropped_has_ended() {
    run(async {
        let server = Server::new();
        let mut never = unary(&server, "/test.Echo/Never", b"");
        assert!(poll_fn(|context| Poll::Ready(never.poll_part(context).is_pending())).await);
        drop(never);
        assert_eq!((server.service.dropped.get(), server.handled(2, Code::Canceled)), (1, 1));
        assert_eq!(server.settings.counters.requests_active.get(), 0);
    });
}

#[test]
fn deadlines_and_sizes_are_kept() {
    run(async {
        let server = Server::new();
        let local = local(&server);
        let (route, call) = order(&local, "/test.Echo/Never", Some(Instant::now() + Duration::from_millis(20)));
        let mut never = local.unary(route, call, Bytes::new());
        assert_eq!(all(&mut never).await, (Bytes::new(), Some(error::DEADLINE_EXCEEDED)));
        assert_eq!((server.service.dropped.get(), server.handled(2, Code::DeadlineExceeded)), (1, 1));
        // Past before it began: it is not begun.
        let (route, call) = order(&local, "/test.Echo/Echo", Some(Instant::now()));
        let mut past = local.unary(route, call, Bytes::new());
        assert_eq!(all(&mut past).await, (Bytes::new(), Some(error::DEADLINE_EXCEEDED)));

        let limit = server.settings.max_message_bytes();
        let (route, call) = order(&local, "/test.Echo/Echo", None);
        let mut large = local.unary(route, call, vec![0; limit + 1].into());
        assert_eq!(all(&mut large).await, (Bytes::new(), Some(error::received_too_large(limit + 1, limit))));
        assert_eq!(server.service.messages.get(), 1, "none but the first has reached the handler");
        let (route, call) = order(&local, "/test.Echo/Chat", None);
        let mut large = local.stream_of(route, call, vec![0; limit + 1].into());
        assert_eq!(all(&mut large).await, (Bytes::new(), Some(error::received_too_large(limit + 1, limit))));
        assert_eq!(server.handled(4, Code::ResourceExhausted), 1);
    });
}

#[test]
fn a_stream_takes_messages_while_it_answers() {
    run(async {
        let server = Server::new();
        let local = local(&server);
        let given = Given::default();
        let (route, call) = order(&local, "/test.Echo/Chat", None);
        let mut chat = local.stream(route, call, Box::new(given.clone()));
        for message in ["one", "two"] {
            given.messages.borrow_mut().push_back(Bytes::from(message));
            let head = part(&mut chat).await.unwrap().unwrap();
            let body = part(&mut chat).await.unwrap().unwrap();
            assert_eq!([head, body].concat(), prefixed(0, message.as_bytes()));
        }
        assert!(poll_fn(|context| Poll::Ready(chat.poll_part(context).is_pending())).await);
        given.closed.set(true);
        assert_eq!(all(&mut chat).await, (Bytes::new(), None));
        let counted = &server.settings.counters.methods[4];
        assert_eq!((counted.received.get(), counted.sent.get(), server.handled(4, Code::Ok)), (2, 2, 1));
    });
}

#[test]
fn what_nobody_takes_is_not_made() {
    run(async {
        let server = Server::new();
        let local = local(&server);
        let (route, call) = order(&local, "/test.Echo/Pour", None);
        let mut pour = local.stream_of(route, call, Bytes::new());
        for _ in 0..100 {
            assert_eq!(part(&mut pour).await.unwrap().unwrap().len(), 10_005);
        }
        assert!(server.service.queued_max.get() <= limits::GRPC_REPLY_QUEUE_BYTES + 10_005);
        assert!(server.service.messages.get() <= 102, "{}", server.service.messages.get());
        drop(pour);
        assert_eq!((server.service.dropped.get(), server.handled(6, Code::Canceled)), (1, 1));
    });
}

#[test]
fn a_drain_reaches_streams() {
    run(async {
        let server = Server::new();
        let local = local(&server);
        let (route, call) = order(&local, "/test.Echo/Wait", None);
        let mut wait = local.stream_of(route, call, Bytes::new());
        assert!(poll_fn(|context| Poll::Ready(wait.poll_part(context).is_pending())).await);
        server.drain.fire();
        assert_eq!(all(&mut wait).await, (Bytes::new(), Some(error::STOPPED)));
    });
}
