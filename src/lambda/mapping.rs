//! Under which settings of an event source mapping the guarantee holds: the settings as `aws lambda get-event-source-mapping`
//! prints them, held to that.
//!
//! Owns: these rules and their remedies. Does not own: the pipeline's own settings (settings).

use serde::Deserialize;
use serde_json::Value;
use sluicebox_actors::model::fault::{Fault, Kind, Result};

/// As far as they matter here; what is absent has Lambda's default.
#[derive(Deserialize, Default, Debug)]
#[serde(rename_all = "PascalCase", default)]
struct Mapping {
    event_source_arn: Option<String>,
    starting_position: Option<String>,
    parallelization_factor: Option<i64>,
    filter_criteria: Option<Value>,
    tumbling_window_in_seconds: Option<i64>,
    function_response_types: Option<Vec<String>>,
    maximum_retry_attempts: Option<i64>,
    maximum_record_age_in_seconds: Option<i64>,
    /// Of a listing, which holds mappings and is none.
    event_source_mappings: Option<Value>,
}

/// Where shards begin that no one has read, by the pipeline file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// With the oldest record.
    Horizon,
    /// At some time.
    Later,
}

/// Something about the mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Its key.
    pub key: &'static str,
    /// Refused, or only to be known.
    pub refused: bool,
    /// What is wrong.
    pub says: String,
    /// What to do.
    pub help: &'static str,
}

/// Holds a mapping, JSON, to what a pipeline over this stream needs.
pub fn check(json: &str, stream: &str, start: Start) -> Result<Vec<Finding>> {
    let mapping: Mapping = serde_json::from_str(json)
        .map_err(|error| Fault::caused(Kind::Config, "reading the event source mapping, JSON of the AWS CLI", &error))?;
    let Some(arn) = mapping.event_source_arn.as_deref().filter(|_| mapping.event_source_mappings.is_none()) else {
        return Err(Fault::config(
            "this is no event source mapping: write what `aws lambda get-event-source-mapping --uuid UUID` prints",
        ));
    };
    let mut findings = Vec::new();
    let mut find = |refused, key, says: String, help| findings.push(Finding { key, refused, says, help });
    let name = arn.split_once(":stream/").and_then(|(_, rest)| rest.split('/').next());
    if !arn.contains(":kinesis:") || name != Some(stream) {
        let says = format!("the source is {arn}, and the pipeline's stream is {stream}");
        find(true, "EventSourceArn", says, "map the function to the stream of stream.name, or to a consumer of it");
    }
    if let Some(factor) = mapping.parallelization_factor.filter(|factor| *factor != 1) {
        let says = format!("{factor} batches of one shard at once: they commit in no order, and all but one in vain");
        find(true, "ParallelizationFactor", says, "set it to 1; split shards for more speed");
    }
    if has_filters(mapping.filter_criteria.as_ref()) {
        let says = "records that a filter leaves out are in no table and in no ledger".to_owned();
        find(true, "FilterCriteria", says, "remove it; [[silver.filter]] leaves records out and counts them");
    }
    if let Some(seconds) = mapping.tumbling_window_in_seconds.filter(|seconds| *seconds != 0) {
        let says = format!("windows of {seconds} s by arrival, with a state per shard");
        find(true, "TumblingWindowInSeconds", says, "set it to 0: Gold has windows of event time over all shards");
    }
    let reports = mapping.function_response_types.iter().flatten().any(|kind| kind == "ReportBatchItemFailures");
    if !reports {
        let says = "Lambda does not look at which records are done: a batch that was done in part is handed over whole, without \
                    end where it is too large for one invocation"
            .to_owned();
        find(true, "FunctionResponseTypes", says, "add ReportBatchItemFailures");
    }
    let loss = |what: String| {
        format!("{what} Lambda discards records that are not done: they are in no table and no ledger, and it is not noticed")
    };
    if let Some(attempts) = mapping.maximum_retry_attempts.filter(|attempts| *attempts >= 0) {
        let says = loss(format!("after {attempts} retries"));
        find(false, "MaximumRetryAttempts", says, "set it to -1: an outage is waited out, and bad records are letters");
    }
    if let Some(seconds) = mapping.maximum_record_age_in_seconds.filter(|seconds| *seconds >= 0) {
        let says = loss(format!("at an age of {seconds} s"));
        find(false, "MaximumRecordAgeInSeconds", says, "set it to -1: records stay as long as the stream keeps them");
    }
    let position = mapping.starting_position.as_deref().unwrap_or("TRIM_HORIZON");
    if (position == "TRIM_HORIZON") != (start == Start::Horizon) {
        let says = format!("Lambda begins at {position}, and stream.start says otherwise: what lies between is nobody's");
        let help = "a shard counts as quiet only when nothing is left after its position: let both begin with the oldest record";
        find(false, "StartingPosition", says, help);
    }
    Ok(findings)
}

fn has_filters(criteria: Option<&Value>) -> bool {
    let Some(criteria) = criteria.filter(|criteria| !criteria.is_null()) else { return false };
    let filters = criteria.get("Filters").and_then(Value::as_array);
    filters.is_none_or(|filters| !filters.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As the AWS CLI prints it.
    fn good() -> Value {
        json!({
            "UUID": "14e0db71-xmpl-4eb5-b481-8945cf9d10c2", "StartingPosition": "TRIM_HORIZON", "BatchSize": 1000,
            "MaximumBatchingWindowInSeconds": 5, "ParallelizationFactor": 1,
            "EventSourceArn": "arn:aws:kinesis:us-west-2:123456789012:stream/clicks",
            "FunctionArn": "arn:aws:lambda:us-west-2:123456789012:function:f", "LastModified": 1569284520.333, "State": "Enabled",
            "MaximumRecordAgeInSeconds": -1, "BisectBatchOnFunctionError": true, "MaximumRetryAttempts": -1,
            "TumblingWindowInSeconds": 0, "FunctionResponseTypes": ["ReportBatchItemFailures"], "DestinationConfig": {}
        })
    }

    fn found(mapping: &Value) -> Vec<(&'static str, bool)> {
        let findings = check(&mapping.to_string(), "clicks", Start::Horizon).expect("a mapping");
        findings.into_iter().map(|finding| (finding.key, finding.refused)).collect()
    }

    #[test]
    fn the_mapping_of_the_readme_passes_and_absent_keys_have_their_defaults() {
        assert_eq!(found(&good()), []);
        let mut short = good();
        for key in ["ParallelizationFactor", "MaximumRetryAttempts", "MaximumRecordAgeInSeconds", "TumblingWindowInSeconds"] {
            short.as_object_mut().expect("an object").remove(key);
        }
        short["FilterCriteria"] = json!({ "Filters": [] });
        short["EventSourceArn"] = json!("arn:aws:kinesis:us-west-2:1:stream/clicks/consumer/c:1569284520");
        assert_eq!(found(&short), []);
    }

    #[test]
    fn each_setting_under_which_the_guarantee_does_not_hold_is_named() {
        let filter = json!({ "Filters": [{ "Pattern": "{}" }] });
        let cases = [
            ("EventSourceArn", json!("arn:aws:kinesis:us-west-2:123456789012:stream/other"), true),
            ("EventSourceArn", json!("arn:aws:dynamodb:us-west-2:1:table/t/stream/clicks"), true),
            ("ParallelizationFactor", json!(2), true),
            ("FilterCriteria", filter, true),
            ("TumblingWindowInSeconds", json!(60), true),
            ("FunctionResponseTypes", json!([]), true),
            ("MaximumRetryAttempts", json!(0), false),
            ("MaximumRecordAgeInSeconds", json!(3600), false),
            ("StartingPosition", json!("LATEST"), false),
        ];
        for (key, value, refused) in cases {
            let mut mapping = good();
            mapping[key] = value;
            assert_eq!(found(&mapping), [(key, refused)]);
        }
    }

    #[test]
    fn what_is_no_mapping_is_refused_with_the_command_that_prints_one() {
        for text in ["{}", "{\"EventSourceMappings\": []}", "[", "7"] {
            assert_eq!(check(text, "clicks", Start::Horizon).expect_err("refused").kind(), Kind::Config, "{text}");
        }
    }
}
