//! Requests and answers as lines of JSON.

use serde::de::{DeserializeOwned, value::MapDeserializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::protocol::{ErrorCode, ErrorObject, Request, VERSION};

/// A line that is no request, and the number to answer it by if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The line's `id`.
    pub id: Option<u64>,
    /// What is wrong with it.
    pub error: ErrorObject,
}

/// Reads a request's line, with or without its newline.
///
/// # Errors
///
/// [`Rejected`], whose message names the field that is wrong.
pub fn parse_request(line: &[u8]) -> Result<(u64, Request), Rejected> {
    let object = parse_object(line).map_err(|error| Rejected { id: None, error })?;
    let id = object.get("id").and_then(Value::as_u64);
    request_of(object).map_err(|error| Rejected { id, error })
}

fn parse_object(line: &[u8]) -> Result<Map<String, Value>, ErrorObject> {
    let text = std::str::from_utf8(line)
        .map_err(|error| bad(format!("the request is not UTF-8 at byte {}", error.valid_up_to())))?;
    let value =
        serde_json::from_str(text).map_err(|error| bad(format!("the request is not JSON: {error}")))?;
    match value {
        Value::Object(object) => Ok(object),
        other => Err(bad(format!("the request is {}, not an object", kind(&other)))),
    }
}

/// Checks the envelope field by field, so that each mistake is named.
fn request_of(mut object: Map<String, Value>) -> Result<(u64, Request), ErrorObject> {
    match object.remove("v") {
        Some(Value::Number(number)) if number.as_u64() == Some(u64::from(VERSION)) => {}
        Some(Value::Number(number)) => {
            let message = format!("v: version {number} of the protocol is not spoken here, but {VERSION}");
            return Err(ErrorObject::new(ErrorCode::Version, message));
        }
        other => return Err(wrong("v", other.as_ref(), "the protocol's version, a number")),
    }
    let id = match object.remove("id") {
        Some(Value::Number(number)) if number.is_u64() => number.as_u64().unwrap_or_default(),
        other => return Err(wrong("id", other.as_ref(), "a whole number from 0")),
    };
    let op = match object.remove("op") {
        Some(Value::String(op)) => op,
        other => return Err(wrong("op", other.as_ref(), "a string")),
    };
    let args = match object.remove("args") {
        None => Map::new(),
        Some(Value::Object(args)) => args,
        other => return Err(wrong("args", other.as_ref(), "an object")),
    };
    if let Some(field) = object.keys().next() {
        return Err(bad(format!("{field:?}: unknown field, expected v, id, op or args")));
    }
    Ok((id, typed_request(op, args)?))
}

fn typed_request(op: String, args: Map<String, Value>) -> Result<Request, ErrorObject> {
    // `op` comes first, because only then are the arguments read where they stand.
    let fields = [("op", Value::from(op)), ("args", Value::from(args))];
    let fields = MapDeserializer::<_, serde_json::Error>::new(fields.into_iter());
    serde_path_to_error::deserialize(fields).map_err(|error| bad(error.to_string()))
}

fn wrong(field: &str, found: Option<&Value>, expected: &str) -> ErrorObject {
    match found {
        None => bad(format!("{field}: missing, expected {expected}")),
        Some(found) => bad(format!("{field}: {}, expected {expected}", kind(found))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number of another range",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn bad(message: impl Into<String>) -> ErrorObject {
    ErrorObject::new(ErrorCode::BadRequest, message)
}

/// A request's line.
///
/// # Errors
///
/// The request has no form in JSON.
pub fn request_line(id: u64, request: &Request) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    struct Line<'a> {
        v: u32,
        id: u64,
        #[serde(flatten)]
        request: &'a Request,
    }
    Ok(serde_json::to_string(&Line { v: VERSION, id, request })? + "\n")
}

/// The line that answers with a result, given as JSON.
pub fn result_line(id: u64, result: &str) -> String {
    format!("{{\"v\":{VERSION},\"id\":{id},\"ok\":true,\"result\":{result}}}\n")
}

/// The line that answers with an error. Without an `id` it is about the connection or a line that has none.
pub fn error_line(id: Option<u64>, error: &ErrorObject) -> String {
    let id = id.map_or(Value::Null, Value::from);
    let message = Value::from(error.message.as_str());
    let code = serde_json::to_string(&error.code).unwrap_or_else(|_| "\"failed\"".to_owned());
    format!(
        "{{\"v\":{VERSION},\"id\":{id},\"ok\":false,\"error\":{{\"code\":{code},\"message\":{message}}}}}\n"
    )
}

/// An answer as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Response<T> {
    /// Which request it answers; `None` is the connection itself.
    pub id: Option<u64>,
    /// The result or the error.
    pub result: Result<T, ErrorObject>,
}

/// Reads an answer's line. Fields that are not known here are passed over.
///
/// # Errors
///
/// The line is no answer, or its result is no `T`.
pub fn parse_response<T: DeserializeOwned>(line: &[u8]) -> Result<Response<T>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Head {
        id: Option<u64>,
        ok: bool,
        error: Option<ErrorObject>,
    }
    #[derive(Deserialize)]
    struct Body<T> {
        result: T,
    }
    let Head { id, ok, error } = serde_json::from_slice(line)?;
    let result = match (ok, error) {
        (true, _) => Ok(serde_json::from_slice::<Body<T>>(line)?.result),
        (false, Some(error)) => Err(error),
        (false, None) => return Err(serde::de::Error::missing_field("error")),
    };
    Ok(Response { id, result })
}

#[cfg(test)]
mod tests {
    use super::super::protocol::Selector;
    use super::*;

    fn rejected(line: &str) -> (Option<u64>, ErrorCode, String) {
        let Rejected { id, error } = parse_request(line.as_bytes()).unwrap_err();
        (id, error.code, error.message)
    }

    #[test]
    fn args_may_be_left_out_and_requests_survive_the_way() {
        assert_eq!(parse_request(br#"{"v":2,"id":7,"op":"list"}"#), Ok((7, Request::List {})));
        let driver = Selector { iface: Some("veth0".to_owned()), ..Selector::default() };
        let requests = [
            Request::Hello {},
            Request::SteerAdd { driver: driver.clone(), rule: "drop:\"x\\".to_owned(), yes: true },
            Request::Capture { driver, filter: None, snaplen: Some(64), ring_size: None },
        ];
        for (id, request) in (u64::MAX - 2..=u64::MAX).zip(requests) {
            let line = request_line(id, &request).unwrap();
            assert_eq!(parse_request(line.as_bytes()), Ok((id, request)));
        }
    }

    #[test]
    fn each_mistake_is_named_by_its_field() {
        let table = [
            (r#"{"id":1,"op":"list"}"#, Some(1), "v: missing"),
            (r#"{"v":"1","id":1,"op":"list"}"#, Some(1), "v: a string"),
            (r#"{"v":2,"op":"list"}"#, None, "id: missing"),
            (r#"{"v":2,"id":-1,"op":"list"}"#, None, "id: a number of another range"),
            (r#"{"v":2,"id":1.5,"op":"list"}"#, None, "id: a number"),
            (r#"{"v":2,"id":1}"#, Some(1), "op: missing"),
            (r#"{"v":2,"id":1,"op":5}"#, Some(1), "op: a number"),
            (r#"{"v":2,"id":1,"op":"list","args":[]}"#, Some(1), "args: an array"),
            (r#"{"v":2,"id":1,"op":"list","extra":2}"#, Some(1), "\"extra\": unknown field"),
            (r#"{"v":2,"id":1,"op":"fly"}"#, Some(1), "op: unknown variant `fly`"),
            (r#"{"v":2,"id":1,"op":"list","args":{"a":1}}"#, Some(1), "unknown field `a`"),
            (r#"{"v":2,"id":1,"op":"stats"}"#, Some(1), "missing field `driver`"),
            (
                r#"{"v":2,"id":1,"op":"stats","args":{"driver":{"team_id":5}}}"#,
                Some(1),
                "args.driver.team_id: invalid type",
            ),
            (
                r#"{"v":2,"id":1,"op":"stats","args":{"driver":{"who":"a\\\"}:"}}}"#,
                Some(1),
                "unknown field `who`",
            ),
            (
                r#"{"v":2,"id":1,"op":"capture","args":{"driver":{"iface":"\"x{"},"snaplen":5000000000}}"#,
                Some(1),
                "args.snaplen: invalid value",
            ),
            (
                r#"{"v":2,"id":1,"op":"steer_add_all","args":{"driver":{},"rules":["all",5]}}"#,
                Some(1),
                "args.rules[1]: invalid type",
            ),
            ("[]", None, "the request is an array"),
            ("", None, "the request is not JSON"),
            (r#"{"v":2"#, None, "the request is not JSON"),
        ];
        for (line, id, start) in table {
            let (found, code, message) = rejected(line);
            assert_eq!((found, code), (id, ErrorCode::BadRequest), "{line}: {message}");
            assert!(message.contains(start), "{line}: {message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn another_version_is_an_error_of_its_own() {
        let (id, code, message) = rejected(r#"{"v":9,"id":4,"op":"anything","new":1}"#);
        assert_eq!((id, code), (Some(4), ErrorCode::Version), "{message}");
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        let error = parse_request(b"{\"v\":2,\"id\":\xff}").unwrap_err();
        assert!(error.error.message.contains("not UTF-8 at byte 12"), "{error:?}");
    }

    #[test]
    fn answers_survive_the_way() {
        let ok = parse_response::<Vec<u32>>(result_line(3, "[1,2]").as_bytes()).unwrap();
        assert_eq!(ok, Response { id: Some(3), result: Ok(vec![1, 2]) });
        let error = ErrorObject::new(ErrorCode::NotFound, "no \"x\"\nthere");
        for id in [None, Some(9)] {
            let line = error_line(id, &error);
            assert_eq!(line.matches('\n').count(), 1);
            let response = parse_response::<u32>(line.as_bytes()).unwrap();
            assert_eq!(response, Response { id, result: Err(error.clone()) });
        }
        assert!(parse_response::<u32>(br#"{"v":2,"id":1,"ok":false}"#).is_err());
        assert!(parse_response::<u32>(br#"{"v":2,"id":1,"ok":true,"result":"x"}"#).is_err());
        assert!(parse_response::<()>(br#"{"v":2,"id":1,"ok":true,"result":null,"new":0}"#).is_ok());
    }
}
