use super::*;

const PARENT: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A tracer whose spans stay where they can be looked at: the collector is nowhere.
fn tracer(sampled_per_million: u32) -> Rc<Tracer> {
    let settings = Settings {
        address: "unix:/nonexistent/collector".into(),
        service_name: "s".into(),
        instance_id: String::new(),
        sampled_per_million,
    };
    Rc::new(Tracer::new(Exporter::idle(settings)).unwrap())
}

fn call(tracer: &Rc<Tracer>, parent: Option<&[u8]>) -> Option<Span> {
    tracer.of_call(|| "a/B".into(), parent, None)
}

#[test]
fn what_a_caller_has_decided_holds() {
    for rate in [0, 500_000, 1_000_000] {
        let tracer = tracer(rate);
        let span = call(&tracer, Some(PARENT)).unwrap();
        assert_eq!(span.0.context.trace_id[..2], [0x0a, 0xf7]);
        assert_eq!(span.0.parent, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        assert!(span.0.parent_is_remote);
        let not_sampled = [&PARENT[..PARENT.len() - 1], b"0"].concat();
        assert!(call(&tracer, Some(&not_sampled)).is_none());
    }
}

#[test]
fn without_a_caller_the_rate_decides() {
    assert!(call(&tracer(0), None).is_none());
    // A parent that cannot be read is none.
    assert!(call(&tracer(0), Some(b"nonsense")).is_none());
    let span = call(&tracer(1_000_000), Some(b"nonsense")).unwrap();
    assert_eq!((span.0.parent, span.0.parent_is_remote), ([0; 8], false));
    let half = tracer(500_000);
    let taken = (0..4000).filter(|_| call(&half, None).is_some()).count();
    // Some thirty standard deviations to either side.
    assert!((1000..3000).contains(&taken), "{taken}");
    assert_eq!(Sampling::of(1), Sampling::Below(((1u64 << 63) as f64 / 1e6) as u64));
    assert!(!Sampling::of(1).takes([0xff; 16]));
    assert!(Sampling::of(1).takes([0; 16]));
}

#[test]
fn a_span_is_left_once_and_with_what_was_said_before_its_end() {
    let tracer = tracer(0);
    let span = call(&tracer, Some(PARENT)).unwrap();
    let inner = span.child("put", |say| say.text("key", b"k\xff"));
    inner.event("happened");
    drop(inner);
    let held = span.clone();
    span.fail("why");
    span.end();
    held.describe(|say| say.int("late", 1));
    drop((span, held));
    let left = tracer.exporter.waiting();
    let names: Vec<_> = left.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["put", "a/B"]);
    assert_eq!(left[0].parent, left[1].context.span_id);
    assert_eq!(left[0].context.trace_id, left[1].context.trace_id);
    assert!(!left[0].parent_is_remote);
    assert_eq!(left[0].attributes.0, [("key", Value::Text("k\u{fffd}".into()))]);
    assert_eq!(left[0].events[0].name, "happened");
    assert!(left[1].attributes.0.is_empty());
    assert_eq!(left[1].failure.as_deref(), Some("why"));
    assert!(left.iter().all(|span| span.started_ns <= span.ended_ns));
}

#[test]
fn nothing_of_a_span_or_of_the_queue_grows_without_bound() {
    let tracer = tracer(0);
    let span = call(&tracer, Some(PARENT)).unwrap();
    let long = vec![b'x'; limits::TRACE_TEXT_BYTES_MAX + 1];
    span.describe(|say| say.text("long", &long));
    (0..=limits::TRACE_EVENTS_MAX).for_each(|_| span.event("again"));
    drop(span);
    let [span] = &tracer.exporter.waiting()[..] else { panic!("one span") };
    assert_eq!(span.events.len(), limits::TRACE_EVENTS_MAX);
    assert_eq!(span.attributes.0, [("long", Value::Text("x".repeat(limits::TRACE_TEXT_BYTES_MAX)))]);
    (0..limits::TRACE_SPANS_QUEUED + 2).for_each(|_| drop(call(&tracer, Some(PARENT))));
    assert_eq!(tracer.exporter.waiting().len(), limits::TRACE_SPANS_QUEUED);
    assert_eq!(tracer.exporter.counts(), [("exported", 0), ("failed", 0), ("dropped", 2)]);
}
