//! What a request is taken for, and how a refusal is told.

use super::*;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

#[test]
fn a_form_may_mean_another_method() {
    const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
    let meant = |value| ("x-http-method-override", value);
    let post = http::Method::POST;
    for (method, pairs, wanted) in [
        (&post, &[][..], Verb::Post),
        (&post, &[FORM], Verb::Post),
        (&post, &[FORM, meant("")], Verb::Post),
        (&post, &[FORM, meant("get")], Verb::Other),
        (&post, &[FORM, meant("post")], Verb::PostOfForm),
        (&post, &[meant("GET")], Verb::Post),
        (&post, &[("content-type", "application/x-www-form-urlencoded; charset=utf-8"), meant("GET")], Verb::Post),
        (&http::Method::GET, &[FORM, meant("POST")], Verb::Other),
        (&http::Method::HEAD, &[], Verb::Other),
    ] {
        assert_eq!(Verb::of(method, &headers(pairs)), wanted, "{method} {pairs:?}");
    }
}

#[test]
fn trailers_are_taken_where_they_are_asked_for() {
    assert!(takes_trailers(&headers(&[("te", "deflate, Trailers")])));
    assert!(!takes_trailers(&headers(&[("te", "deflate")])));
    assert!(!takes_trailers(&headers(&[])));
}

#[test]
fn every_code_has_its_status() {
    for (code, status) in [
        (Code::InvalidArgument, 400),
        (Code::FailedPrecondition, 400),
        (Code::OutOfRange, 400),
        (Code::Unauthenticated, 401),
        (Code::PermissionDenied, 403),
        (Code::NotFound, 404),
        (Code::AlreadyExists, 409),
        (Code::Aborted, 409),
        (Code::ResourceExhausted, 429),
        (Code::Canceled, 499),
        (Code::Unknown, 500),
        (Code::Internal, 500),
        (Code::DataLoss, 500),
        (Code::Unimplemented, 501),
        (Code::Unavailable, 503),
        (Code::DeadlineExceeded, 504),
    ] {
        let answer = refusal(&Status::fixed(code, "x"), Told::Whole);
        assert_eq!(answer.status().as_u16(), status, "{code:?}");
        assert_eq!(answer.headers().contains_key(header::WWW_AUTHENTICATE), status == 401);
        assert_eq!(answer.extensions().get::<ReasonPhrase>().is_some(), status == 499);
    }
}

#[test]
fn a_status_is_told_in_either_form() {
    let status = Status::fixed(Code::NotFound, "a<b>\"c\"&\n");
    assert_eq!(Form::One.error(&status), br#"{"code":5,"message":"a<b>\"c\"&\n"}"#);
    let line = "{\"error\":{\"code\":5,\"message\":\"a\\u003cb\\u003e\\\"c\\\"\\u0026\\n\"}}\n";
    assert_eq!(Form::Lines.error(&status), line.as_bytes());
    assert_eq!(Form::One.error(&Status::fixed(Code::Unknown, "")), b"{\"code\":2}");
}
