//! From what an AWS SDK says of a failed call to a fault that tells its reader what to do.
//!
//! Owns: the classes of failure, the kind of each, the words (service, operation, code, request id, HTTP status, remedy), the IAM
//! statement of a missing permission. Does not own: retries and their pace (each caller), what a missing thing means to a caller
//! that expects it may be missing (it asks for the [`Class`] first).

use std::error::Error;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use sluicebox_actors::model::fault::{Fault, Kind};

/// Characters of a service's own words that a fault repeats.
const WORDS_MAX: usize = 400;

/// What a failed call means for whoever made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Asked too often: nothing was done, wait longer.
    Throttled,
    /// The service answered that it cannot now (HTTP 5xx). The effect is unknown.
    Unavailable,
    /// No answer: connection, time-out, an answer cut short. The effect is unknown.
    NoAnswer,
    /// The caller may not do this, or is nobody the service knows.
    Denied,
    /// There are no credentials or no region to call with: nothing was sent.
    Unconfigured,
    /// What the call names is not there.
    NotFound,
    /// A condition did not hold, or somebody else is at it (HTTP 409 or 412, conditional checks).
    Conflict,
    /// The request itself is wrong.
    Invalid,
}

/// One kind of call as faults name it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The service as IAM writes it: `kinesis`, `dynamodb`, `s3`, `sqs`, `sns`, `timestream`, `cloudwatch`.
    pub service: &'static str,
    /// The operation as the API writes it: `GetRecords`.
    pub operation: &'static str,
    /// What it is done to, best an ARN: it is the `Resource` of the IAM statement that a fault proposes.
    pub resource: &'a str,
}

impl Call<'_> {
    /// The fault of a failed call. `Retry` where waiting may help, `Config` where the user must change something, else `Bug`.
    pub fn fault<E>(&self, error: &SdkError<E, HttpResponse>) -> Fault
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let class = classify(error);
        let kind = match class {
            Class::Throttled | Class::Unavailable | Class::NoAnswer | Class::Conflict => Kind::Retry,
            Class::Denied | Class::Unconfigured | Class::NotFound => Kind::Config,
            Class::Invalid => Kind::Bug,
        };
        Fault::new(kind, format!("{}: {}{}", self.head(), said(error), self.remedy(class, code(error))))
    }

    fn head(&self) -> String {
        format!("{} {} of {}", self.service, self.operation, self.resource)
    }

    fn remedy(&self, class: Class, code: Option<&str>) -> String {
        match class {
            Class::Throttled => ". It is done again more slowly; if it goes on, raise the limit or make fewer calls".to_owned(),
            Class::Unavailable | Class::NoAnswer => {
                ". It is done again; if it goes on, look at the network, the endpoint and the service's health page".to_owned()
            }
            Class::Conflict => ". Somebody else was at it; it is looked at again".to_owned(),
            Class::Denied if is_identity(code) => {
                ". The credentials are not valid (wrong, expired, or the clock is off): renew them (aws sts get-caller-identity \
                 says whose they are) and start again"
                    .to_owned()
            }
            Class::Denied => format!(". Add to the role's policy: {}", self.statement()),
            Class::Unconfigured => ". Give the process a role, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, \
                 and AWS_REGION"
                .to_owned(),
            Class::NotFound => ". Create it, or correct its name, the region or the account".to_owned(),
            Class::Invalid => ". The request is one that the service refuses: please report it".to_owned(),
        }
    }

    /// The IAM statement that allows this call.
    pub fn statement(&self) -> String {
        let (action, resource) = (iam_action(self.service, self.operation), self.resource);
        format!(r#"{{"Effect":"Allow","Action":"{action}","Resource":"{resource}"}}"#)
    }
}

/// The IAM action of an API operation; S3 names its actions in its own way, and a batch has the name of what it batches.
pub fn iam_action(service: &str, operation: &str) -> String {
    let action = match (service, operation) {
        ("s3", "HeadObject") => "GetObject",
        ("s3", "ListObjectsV2" | "HeadBucket") => "ListBucket",
        ("s3", "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload") => "PutObject",
        ("s3", "ListMultipartUploads") => "ListBucketMultipartUploads",
        ("s3", "ListParts") => "ListMultipartUploadParts",
        ("s3", "GetBucketLifecycleConfiguration") => "GetLifecycleConfiguration",
        ("s3", "DeleteObjects") => "DeleteObject",
        ("dynamodb", "TransactWriteItems") => "PutItem",
        ("sqs", "SendMessageBatch") => "SendMessage",
        (_, operation) => operation,
    };
    format!("{service}:{action}")
}

/// What kind of failure it is.
pub fn classify<E>(error: &SdkError<E, HttpResponse>) -> Class
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => Class::NoAnswer,
        SdkError::ConstructionFailure(_) if is_unconfigured(error) => Class::Unconfigured,
        SdkError::ConstructionFailure(_) => Class::Invalid,
        SdkError::DispatchFailure(_) if is_unconfigured(error) => Class::Unconfigured,
        SdkError::DispatchFailure(failure) if failure.is_user() => Class::Invalid,
        SdkError::DispatchFailure(_) => Class::NoAnswer,
        SdkError::ServiceError(answer) => of_answer(answer.err().code(), answer.raw().status().as_u16()),
        // The SDK may grow variants; one we do not know tells us nothing about the effect.
        _ => Class::NoAnswer,
    }
}

/// The service's error code, if it answered with one.
pub fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}

/// The class of an answer, by its code, else by its HTTP status (HEAD answers carry no code).
pub fn of_answer(code: Option<&str>, status: u16) -> Class {
    let code = code.unwrap_or_default();
    // `com.amazonaws...#Code` and `Code:http://...` are the older spellings.
    let code = code.rsplit('#').next().unwrap_or(code).split(':').next().unwrap_or(code);
    let throttled = code.contains("Throttl")
        || code.contains("LimitExceeded")
        || code.contains("ThroughputExceeded")
        || matches!(code, "TooManyRequestsException" | "SlowDown" | "RequestLimitExceeded" | "BandwidthLimitExceeded");
    if throttled || status == 429 {
        return Class::Throttled;
    }
    if is_identity(Some(code)) || code.contains("AccessDenied") || matches!(code, "NotAuthorized" | "AuthorizationError") {
        return Class::Denied;
    }
    match code {
        "InternalFailure"
        | "InternalError"
        | "InternalServerError"
        | "InternalServerException"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "InternalFailureException" => Class::Unavailable,
        "RequestTimeout" | "RequestTimeoutException" => Class::NoAnswer,
        "ResourceNotFoundException"
        | "NoSuchKey"
        | "NoSuchBucket"
        | "NoSuchUpload"
        | "NotFound"
        | "QueueDoesNotExist"
        | "AWS.SimpleQueueService.NonExistentQueue" => Class::NotFound,
        "ConditionalCheckFailedException"
        | "ConditionalRequestConflict"
        | "PreconditionFailed"
        | "OperationAborted"
        | "TransactionConflictException"
        | "TransactionInProgressException"
        | "ResourceInUseException" => Class::Conflict,
        _ => match status {
            500.. => Class::Unavailable,
            401 | 403 => Class::Denied,
            404 => Class::NotFound,
            408 => Class::NoAnswer,
            409 | 412 => Class::Conflict,
            _ => Class::Invalid,
        },
    }
}

/// Codes that say who is calling is not known, as against: may not do this.
fn is_identity(code: Option<&str>) -> bool {
    let known = [
        "UnrecognizedClientException",
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidToken",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotSignedUp",
        "OptInRequired",
        "RequestExpired",
        "RequestTimeTooSkewed",
    ];
    code.is_some_and(|code| known.contains(&code))
}

fn is_unconfigured(error: &dyn Error) -> bool {
    let signs = ["no providers in chain provided credentials", "Missing Region", "no credentials"];
    chain(error).iter().any(|text| signs.iter().any(|sign| text.contains(sign)))
}

/// The chain of causes as text, outermost first.
fn chain(error: &dyn Error) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        texts.push(cause.to_string());
        next = cause.source();
    }
    texts.dedup();
    texts
}

/// What came back, in words: code, status, request id and the service's message, or why there was no answer.
fn said<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let Some(raw) = error.raw_response() else { return cut(&chain(error).join(": ")) };
    let id = |name| raw.headers().get(name);
    let id = id("x-amzn-requestid").or_else(|| id("x-amz-request-id")).unwrap_or("none");
    let status = raw.status().as_u16();
    match error.as_service_error() {
        Some(answer) => {
            let code = answer.code().unwrap_or("no code");
            // The string to sign, which this message repeats, holds the session token.
            let words = answer.message().filter(|_| !code.contains("Signature"));
            let words = words.map(|words| format!(", \"{}\"", cut(words))).unwrap_or_default();
            format!("{code} (HTTP {status}, request id {id}{words})")
        }
        None => format!("an answer that cannot be read (HTTP {status}, request id {id}): {}", cut(&chain(error).join(": "))),
    }
}

fn cut(words: &str) -> String {
    match words.char_indices().nth(WORDS_MAX) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use aws_smithy_types::body::SdkBody;
    use aws_smithy_types::error::ErrorMetadata;

    #[derive(Debug)]
    struct Answer(ErrorMetadata);

    impl std::fmt::Display for Answer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the answer itself")
        }
    }

    impl Error for Answer {}

    impl ProvideErrorMetadata for Answer {
        fn meta(&self) -> &ErrorMetadata {
            &self.0
        }
    }

    const CALL: Call<'_> =
        Call { service: "kinesis", operation: "GetRecords", resource: "arn:aws:kinesis:eu-west-1:123456789012:stream/orders" };

    fn answered(code: Option<&str>, status: u16, message: &str) -> SdkError<Answer, HttpResponse> {
        let mut raw = HttpResponse::new(status.try_into().expect("a status"), SdkBody::empty());
        raw.headers_mut().insert("x-amzn-requestid", "id-7");
        let mut meta = ErrorMetadata::builder().message(message);
        if let Some(code) = code {
            meta = meta.code(code);
        }
        SdkError::service_error(Answer(meta.build()), raw)
    }

    #[test]
    fn a_missing_permission_comes_with_the_statement_to_add() {
        let fault = CALL.fault(&answered(Some("AccessDeniedException"), 400, "User x is not authorized"));
        assert_eq!(fault.kind(), Kind::Config);
        let text = fault.to_string();
        for part in [
            "kinesis GetRecords of arn:aws:kinesis:eu-west-1:123456789012:stream/orders",
            "AccessDeniedException (HTTP 400, request id id-7, \"User x is not authorized\")",
            r#"{"Effect":"Allow","Action":"kinesis:GetRecords","Resource":"arn:aws:kinesis:eu-west-1:123456789012:stream/"#,
        ] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }

    #[test]
    fn every_failure_has_the_kind_of_what_can_be_done_about_it() {
        let kinds = [
            (Some("ProvisionedThroughputExceededException"), 400, Kind::Retry),
            (Some("LimitExceededException"), 400, Kind::Retry),
            (Some("KMSThrottlingException"), 400, Kind::Retry),
            (Some("ThrottlingException"), 400, Kind::Retry),
            (Some("SlowDown"), 503, Kind::Retry),
            (Some("InternalFailure"), 500, Kind::Retry),
            (None, 503, Kind::Retry),
            (Some("ConditionalRequestConflict"), 409, Kind::Retry),
            (Some("KMSAccessDeniedException"), 400, Kind::Config),
            (Some("UnrecognizedClientException"), 400, Kind::Config),
            (Some("ExpiredTokenException"), 400, Kind::Config),
            (None, 403, Kind::Config),
            (Some("com.amazonaws.kinesis.v20131202#ResourceNotFoundException"), 400, Kind::Config),
            (Some("ValidationException"), 400, Kind::Bug),
            (Some("NobodyKnows"), 418, Kind::Bug),
        ];
        for (code, status, kind) in kinds {
            assert_eq!(CALL.fault(&answered(code, status, "")).kind(), kind, "{code:?} {status}");
        }
        assert_eq!(CALL.fault(&SdkError::<Answer, _>::timeout_error("30 s")).kind(), Kind::Retry);
        let refused = ConnectorError::io("connection refused".into());
        assert_eq!(CALL.fault(&SdkError::<Answer, _>::dispatch_failure(refused)).kind(), Kind::Retry);
        let nobody = ConnectorError::other("no providers in chain provided credentials".into(), None);
        let fault = CALL.fault(&SdkError::<Answer, _>::dispatch_failure(nobody));
        assert!(fault.kind() == Kind::Config && fault.to_string().contains("AWS_ACCESS_KEY_ID"), "{fault}");
    }

    #[test]
    fn what_a_wrong_signature_repeats_is_not_shown() {
        let secret = "x-amz-security-token:FwoGZX";
        let fault = CALL.fault(&answered(Some("SignatureDoesNotMatch"), 403, secret));
        assert!(!format!("{fault:?}").contains("FwoGZX") && fault.kind() == Kind::Config, "{fault}");
    }

    #[test]
    fn long_words_are_cut_at_a_character() {
        let fault = CALL.fault(&answered(Some("ValidationException"), 400, &"ü".repeat(5000)));
        assert!(fault.to_string().chars().count() < 800);
    }

    #[test]
    fn actions_of_s3_are_named_as_iam_names_them() {
        assert_eq!(iam_action("s3", "CompleteMultipartUpload"), "s3:PutObject");
        assert_eq!(iam_action("s3", "HeadObject"), "s3:GetObject");
        assert_eq!(iam_action("dynamodb", "UpdateItem"), "dynamodb:UpdateItem");
        assert_eq!(iam_action("sqs", "SendMessageBatch"), "sqs:SendMessage");
    }
}
