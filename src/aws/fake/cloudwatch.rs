//! CloudWatch in memory: PutMetricData, with its limits.
//!
//! Owns: the metrics, and as much CBOR as the SDK writes. Does not own: the socket (server).

use std::io::Read;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value};

use crate::server::{Call, Fake, Locked, Service};

const METRICS_MAX: usize = 1000;
const BODY_MAX: usize = 1 << 20;

/// A CloudWatch on a loopback port. It ends when dropped.
pub type FakeCloudWatch = Fake<Calls>;

/// What it holds.
#[derive(Default)]
pub struct Calls(Vec<Value>);

impl FakeCloudWatch {
    /// All calls that were taken: `Namespace` and `MetricData` as the API names them.
    pub fn calls(&self) -> Vec<Value> {
        self.lock().0.clone()
    }
}

impl Service for Locked<Calls> {
    fn operation(&self, call: &Call) -> String {
        call.path.rsplit('/').next().unwrap_or_default().to_owned()
    }

    fn answer(&self, operation: &str, call: &Call) -> Response {
        let mut body = call.body.to_vec();
        if call.header("content-encoding") == Some("gzip") {
            let mut plain = Vec::new();
            if flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).is_err() {
                return self.refusal(400, "InvalidParameterValue");
            }
            body = plain;
        }
        let request = Cbor(&body).value().unwrap_or_default();
        let metrics = request["MetricData"].as_array().map_or(0, Vec::len);
        let numbers = request["MetricData"].as_array().into_iter().flatten().all(|metric| {
            let one = metric["Value"].is_number();
            let set = metric["StatisticValues"]["SampleCount"].as_f64().is_some_and(|count| count > 0.0);
            metric["MetricName"].is_string() && one != set
        });
        let good = operation == "PutMetricData" && (1..=METRICS_MAX).contains(&metrics) && numbers && body.len() <= BODY_MAX;
        if !good || !request["Namespace"].is_string() {
            return self.refusal(400, "InvalidParameterValue");
        }
        self.lock().0.push(request);
        cbor(200, vec![0xa0])
    }

    fn refusal(&self, status: u16, code: &str) -> Response {
        // A map of one pair of texts.
        let mut body = vec![0xa1, 0x66];
        body.extend(b"__type");
        body.extend([0x78, code.len() as u8]);
        body.extend(code.as_bytes());
        cbor(status, body)
    }

    fn throttled(&self) -> Response {
        self.refusal(400, "Throttling")
    }
}

fn cbor(status: u16, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert("smithy-protocol", HeaderValue::from_static("rpc-v2-cbor"));
    headers.insert("content-type", HeaderValue::from_static("application/cbor"));
    response
}

/// RFC 8949, without what no SDK writes.
struct Cbor<'b>(&'b [u8]);

impl Cbor<'_> {
    fn take(&mut self, bytes: usize) -> Option<&[u8]> {
        let (head, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(head)
    }

    fn big(&mut self, bytes: usize) -> Option<u64> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    /// The value; none for the end of an indefinite one, and for what is no CBOR.
    fn value(&mut self) -> Option<Value> {
        let first = *self.take(1)?.first()?;
        let (major, info) = (first >> 5, first & 31);
        if major == 7 {
            return match info {
                20 | 21 => Some(Value::Bool(info == 21)),
                22 | 23 => Some(Value::Null),
                26 => Some(f64::from(f32::from_bits(self.big(4)? as u32)).into()),
                27 => Some(f64::from_bits(self.big(8)?).into()),
                _ => None,
            };
        }
        let length = match info {
            0..=23 => Some(u64::from(info)),
            24..=27 => Some(self.big(1 << (info - 24))?),
            31 => None,
            _ => return None,
        };
        let more = |done: usize| length.is_none_or(|length| (done as u64) < length);
        match major {
            0 => Some(length?.into()),
            1 => Some((-1 - i64::try_from(length?).ok()?).into()),
            2 | 3 => Some(String::from_utf8_lossy(self.take(usize::try_from(length?).ok()?)?).into_owned().into()),
            4 => {
                let mut items = Vec::new();
                while more(items.len()) {
                    let Some(item) = self.value() else { break };
                    items.push(item);
                }
                Some(items.into())
            }
            5 => {
                let mut members = Map::new();
                while more(members.len()) {
                    let Some(Value::String(name)) = self.value() else { break };
                    members.insert(name, self.value()?);
                }
                Some(members.into())
            }
            // Of a tag, what it is put on.
            _ => self.value(),
        }
    }
}
