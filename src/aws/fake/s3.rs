//! S3 in memory, path style: conditional writes, checksums, lists page by page, multipart uploads, a lifecycle document.
//!
//! Every call is atomic under one mutex; every bucket exists. What it has not: versions, access control, copies, ranges other
//! than `bytes=a-b`.
//!
//! Owns: objects and uploads, what each operation does to them. Does not own: bodies on the wire (body), XML (xml), the socket.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use md5::{Digest, Md5};

use crate::faults::FaultPlan;
use crate::server::{Call, Server, Service};

mod body;
mod xml;

const PART_MIN: usize = 5 << 20;
const PAGE_KEYS: usize = 1000;

/// An S3 on a loopback port. It ends when dropped.
pub struct FakeS3 {
    server: Server,
    store: Arc<Store>,
}

impl FakeS3 {
    /// Starts an empty one.
    pub async fn start() -> io::Result<Self> {
        let faults = Arc::new(FaultPlan::default());
        let store = Arc::new(Store { state: Mutex::default(), faults: faults.clone() });
        Ok(Self { server: Server::start(store.clone(), faults).await?, store })
    }

    /// Where it listens, for `endpoint_url`; clients need `force_path_style`.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// What shall go wrong.
    pub fn faults(&self) -> &FaultPlan {
        &self.store.faults
    }

    /// A page of a list holds at most so many keys or uploads.
    pub fn page_keys(&self, keys: usize) {
        self.store.lock().page_keys = Some(keys);
    }

    /// Forgets every upload that is not complete, as a lifecycle rule does.
    pub fn expire_uploads(&self) {
        self.store.lock().uploads.clear();
    }

    /// Uploads neither completed nor aborted.
    pub fn uploads(&self) -> usize {
        self.store.lock().uploads.len()
    }

    /// The lifecycle document of every bucket; none: there is none.
    pub fn lifecycle(&self, document: Option<&str>) {
        self.store.lock().lifecycle = document.map(str::to_owned);
    }

    /// Changes the bytes of an object and nothing else, as a damaged disk would.
    pub fn damage(&self, bucket: &str, key: &str, data: &'static [u8]) {
        if let Some(object) = self.store.lock().objects.get_mut(&format!("{bucket}/{key}")) {
            object.data = Bytes::from_static(data);
        }
    }

    /// Takes an object away, as somebody who cleans up in the wrong place does; what it was, to be put back.
    pub fn remove(&self, bucket: &str, key: &str) -> Option<Object> {
        self.store.lock().objects.remove(&format!("{bucket}/{key}"))
    }

    /// Puts back what was taken away or damaged.
    pub fn restore(&self, bucket: &str, key: &str, object: Object) {
        self.store.lock().objects.insert(format!("{bucket}/{key}"), object);
    }

    /// Keys that start so, in order.
    pub fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let (state, bucket) = (self.store.lock(), format!("{bucket}/"));
        let keys = state.objects.keys().filter_map(|path| path.strip_prefix(&bucket));
        keys.filter(|key| key.starts_with(prefix)).map(str::to_owned).collect()
    }

    /// The bytes of an object.
    pub fn object(&self, bucket: &str, key: &str) -> Option<Bytes> {
        self.store.lock().objects.get(&format!("{bucket}/{key}")).map(|object| object.data.clone())
    }
}

/// An object with its hash and metadata.
#[derive(Clone)]
pub struct Object {
    data: Bytes,
    etag: String,
    metadata: Vec<(HeaderName, HeaderValue)>,
}

struct Upload {
    path: String,
    metadata: Vec<(HeaderName, HeaderValue)>,
    parts: BTreeMap<u32, (Bytes, String)>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    made: u64,
    page_keys: Option<usize>,
    lifecycle: Option<String>,
}

struct Store {
    state: Mutex<State>,
    faults: Arc<FaultPlan>,
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Failure = (u16, &'static str);

fn query<'a>(call: &'a Call, name: &str) -> Option<&'a str> {
    let mut pairs = call.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

impl Service for Store {
    fn operation(&self, call: &Call) -> String {
        let has = |name| query(call, name).is_some();
        let key = call.path.trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
        let name = match (call.method.as_str(), key) {
            ("PUT", true) if has("uploadId") => "UploadPart",
            ("PUT", true) => "PutObject",
            ("GET", true) => "GetObject",
            ("HEAD", true) => "HeadObject",
            ("DELETE", true) if has("uploadId") => "AbortMultipartUpload",
            ("DELETE", true) => "DeleteObject",
            ("POST", true) if has("uploads") => "CreateMultipartUpload",
            ("POST", true) if has("uploadId") => "CompleteMultipartUpload",
            ("GET", false) if has("lifecycle") => "GetBucketLifecycleConfiguration",
            ("GET", false) if has("uploads") => "ListMultipartUploads",
            ("GET", false) => "ListObjectsV2",
            ("PUT", false) => "CreateBucket",
            _ => "Unknown",
        };
        name.to_owned()
    }

    fn answer(&self, operation: &str, call: &Call) -> Response {
        let blind = self.faults.ignores_conditions();
        let done = body::decode(call).and_then(|body| self.lock().perform(operation, call, body, blind));
        match done {
            Ok(mut response) if call.method == Method::HEAD => {
                *response.body_mut() = Body::empty();
                response
            }
            Ok(response) => response,
            Err((status, _)) if call.method == Method::HEAD => respond(status, String::new()),
            Err((status, code)) => self.refusal(status, code),
        }
    }

    fn refusal(&self, status: u16, code: &str) -> Response {
        let body = format!("<Error><Code>{code}</Code><Message>ordered or refused</Message><RequestId>FAKE</RequestId></Error>");
        respond(status, xml::document(&body))
    }

    fn throttled(&self) -> Response {
        self.refusal(503, "SlowDown")
    }
}

fn respond(status: u16, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    response.headers_mut().insert("x-amz-request-id", HeaderValue::from_static("FAKE"));
    response
}

fn empty(etag: Option<&str>) -> Response {
    let mut response = respond(200, String::new());
    if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
        response.headers_mut().insert("etag", etag);
    }
    response
}

fn xml_answer(body: &str) -> Response {
    respond(200, xml::document(body))
}

/// The part of an object of so many bytes that is asked for; one that begins at its end or behind it is refused, as by S3.
fn range_of(call: &Call, len: usize) -> Result<Option<std::ops::Range<usize>>, Failure> {
    let Some(range) = call.headers.get("range").and_then(|range| range.to_str().ok()) else { return Ok(None) };
    let ends = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let (first, last) = ends.ok_or((501, "NotImplemented"))?;
    let number = |text: &str| text.parse::<usize>().map_err(|_| (501, "NotImplemented"));
    let (first, last) = (number(first)?, number(last)?);
    if first >= len {
        return Err((416, "InvalidRange"));
    }
    Ok(Some(first..last.saturating_add(1).min(len)))
}

fn etag(data: &[u8]) -> String {
    let digits: String = Md5::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digits}\"")
}

fn metadata(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let kept = |name: &HeaderName| name.as_str().starts_with("x-amz-meta-") || name == "content-type";
    headers.iter().filter(|(name, _)| kept(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

impl State {
    fn perform(&mut self, operation: &str, call: &Call, body: Bytes, blind: bool) -> Result<Response, Failure> {
        let path = xml::unquote(call.path.trim_start_matches('/'));
        match operation {
            "PutObject" => {
                self.condition(&path, call, blind)?;
                let object = Object { etag: etag(&body), data: body, metadata: metadata(&call.headers) };
                let answer = empty(Some(&object.etag));
                self.objects.insert(path, object);
                Ok(answer)
            }
            "GetObject" | "HeadObject" => {
                let object = self.objects.get(&path).ok_or((404, "NoSuchKey"))?;
                let (mut answer, len) = (empty(Some(&object.etag)), object.data.len());
                let range = range_of(call, len)?;
                if let Some(range) = &range {
                    let told = format!("bytes {}-{}/{len}", range.start, range.end - 1);
                    let told = HeaderValue::try_from(told).map_err(|_| (500, "InternalError"))?;
                    *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
                    answer.headers_mut().insert("content-range", told);
                }
                let data = object.data.slice(range.unwrap_or(0..len));
                answer.headers_mut().insert("content-length", HeaderValue::from(data.len()));
                *answer.body_mut() = Body::from(data);
                answer.headers_mut().extend(object.metadata.iter().cloned());
                Ok(answer)
            }
            "DeleteObject" => {
                self.objects.remove(&path);
                Ok(respond(204, String::new()))
            }
            "ListObjectsV2" => Ok(self.list(&path, call)),
            "CreateBucket" => Ok(empty(None)),
            "GetBucketLifecycleConfiguration" => {
                let document = self.lifecycle.as_ref().ok_or((404, "NoSuchLifecycleConfiguration"))?;
                Ok(xml_answer(document))
            }
            _ => self.multipart(operation, path, call, body, blind),
        }
    }

    fn condition(&self, path: &str, call: &Call, blind: bool) -> Result<(), Failure> {
        if blind {
            return Ok(());
        }
        let stored = self.objects.get(path);
        if call.header("if-none-match") == Some("*") && stored.is_some() {
            return Err((412, "PreconditionFailed"));
        }
        match (call.header("if-match"), stored) {
            (Some(_), None) => Err((404, "NoSuchKey")),
            (Some(wanted), Some(stored)) if wanted != stored.etag => Err((412, "PreconditionFailed")),
            (Some(_) | None, _) => Ok(()),
        }
    }

    fn list(&self, bucket: &str, call: &Call) -> Response {
        let bucket = format!("{}/", bucket.trim_end_matches('/'));
        let prefix = xml::unquote(query(call, "prefix").unwrap_or_default());
        let after = query(call, "continuation-token").map(xml::unquote);
        let keys = self.objects.iter().filter_map(|(path, object)| Some((path.strip_prefix(&bucket)?, object)));
        let mut keys = keys.filter(|(key, _)| key.starts_with(&prefix) && after.as_deref().is_none_or(|after| *key > after));
        let page: Vec<_> = keys.by_ref().take(self.page_keys.unwrap_or(PAGE_KEYS)).collect();
        let more = keys.next().is_some();
        let mut body = format!("<ListBucketResult><KeyCount>{}</KeyCount><IsTruncated>{more}</IsTruncated>", page.len());
        for (key, object) in &page {
            body += &format!("<Contents><Key>{}</Key><Size>{}</Size></Contents>", xml::quote(key), object.data.len());
        }
        if let (true, Some((last, _))) = (more, page.last()) {
            body += &format!("<NextContinuationToken>{}</NextContinuationToken>", xml::quote(last));
        }
        xml_answer(&(body + "</ListBucketResult>"))
    }

    fn multipart(&mut self, operation: &str, path: String, call: &Call, body: Bytes, blind: bool) -> Result<Response, Failure> {
        let id = query(call, "uploadId").unwrap_or_default().to_owned();
        match operation {
            "CreateMultipartUpload" => {
                self.made += 1;
                let id = format!("upload-{:06}", self.made);
                let answer = format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>");
                self.uploads.insert(id, Upload { path, metadata: metadata(&call.headers), parts: BTreeMap::new() });
                Ok(xml_answer(&answer))
            }
            "UploadPart" => {
                let number = query(call, "partNumber").and_then(|number| number.parse().ok()).ok_or((400, "InvalidArgument"))?;
                let upload = self.uploads.get_mut(&id).filter(|upload| upload.path == path).ok_or((404, "NoSuchUpload"))?;
                let tag = etag(&body);
                let answer = empty(Some(&tag));
                upload.parts.insert(number, (body, tag));
                Ok(answer)
            }
            "CompleteMultipartUpload" => self.complete(&id, path, call, &body, blind),
            "AbortMultipartUpload" => {
                self.uploads.remove(&id).ok_or((404, "NoSuchUpload"))?;
                Ok(respond(204, String::new()))
            }
            "ListMultipartUploads" => Ok(self.list_uploads(&path, call)),
            _ => Err((501, "NotImplemented")),
        }
    }

    fn complete(&mut self, id: &str, path: String, call: &Call, body: &Bytes, blind: bool) -> Result<Response, Failure> {
        let upload = self.uploads.get(id).filter(|upload| upload.path == path).ok_or((404, "NoSuchUpload"))?;
        let wanted = xml::parts(body);
        if !wanted.is_sorted_by(|a, b| a.0 < b.0) {
            return Err((400, "InvalidPartOrder"));
        }
        let mut data = Vec::new();
        for (at, (number, tag)) in wanted.iter().enumerate() {
            let part = upload.parts.get(number).filter(|part| part.1 == *tag).ok_or((400, "InvalidPart"))?;
            if part.0.len() < PART_MIN && at + 1 < wanted.len() {
                return Err((400, "EntityTooSmall"));
            }
            data.extend_from_slice(&part.0);
        }
        self.condition(&path, call, blind)?;
        let tag = format!("{}-{}\"", etag(&data).trim_end_matches('"'), wanted.len());
        let answer = format!("<CompleteMultipartUploadResult><ETag>{}</ETag></CompleteMultipartUploadResult>", xml::quote(&tag));
        let metadata = upload.metadata.clone();
        self.uploads.remove(id);
        self.objects.insert(path, Object { data: data.into(), etag: tag, metadata });
        Ok(xml_answer(&answer))
    }

    fn list_uploads(&self, bucket: &str, call: &Call) -> Response {
        let bucket = format!("{}/", bucket.trim_end_matches('/'));
        let prefix = xml::unquote(query(call, "prefix").unwrap_or_default());
        let after = (query(call, "key-marker").map(xml::unquote), query(call, "upload-id-marker").map(xml::unquote));
        let mut all: Vec<(&str, &str)> = Vec::new();
        for (id, upload) in &self.uploads {
            all.extend(upload.path.strip_prefix(&bucket).filter(|key| key.starts_with(&prefix)).map(|key| (key, id.as_str())));
        }
        all.sort_unstable();
        let passed = |key: &str, id: &str| match &after {
            (Some(after_key), Some(after_id)) => (key, id) <= (after_key.as_str(), after_id.as_str()),
            (Some(after_key), None) => key <= after_key.as_str(),
            (None, _) => false,
        };
        let mut left = all.into_iter().filter(|(key, id)| !passed(key, id));
        let page: Vec<_> = left.by_ref().take(self.page_keys.unwrap_or(PAGE_KEYS)).collect();
        let more = left.next().is_some();
        let mut body = format!("<ListMultipartUploadsResult><IsTruncated>{more}</IsTruncated>");
        for (key, id) in &page {
            body += &format!("<Upload><Key>{}</Key><UploadId>{id}</UploadId></Upload>", xml::quote(key));
        }
        if let (true, Some((key, id))) = (more, page.last()) {
            let (key, marker) = (xml::quote(key), "NextUploadIdMarker");
            body += &format!("<NextKeyMarker>{key}</NextKeyMarker><{marker}>{id}</{marker}>");
        }
        xml_answer(&(body + "</ListMultipartUploadsResult>"))
    }
}
