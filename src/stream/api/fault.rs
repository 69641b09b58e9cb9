//! What goes wrong on purpose: a plan of rules, set at run time, and counts of what was done.
//!
//! ```json
//! {"seed": 7, "rules": [
//!   {"operation": "GetRecords", "shard": "shardId-000000000001", "times": 3, "fault": {"kind": "throttle"}}]}
//! ```
//!
//! Owns: the plan, which call it hits, counters. Does not own: carrying a fault out (http and the operations).

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluicebox_actors::model::fault::{Fault, Result};

use super::error::{ApiError, rate_exceeded};

const RULES_MAX: usize = 1000;
const DELAY_MAX_MS: u64 = 600_000;

/// Faults to come. Setting a plan forgets the one before; an empty one ends all faults.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(default, deny_unknown_fields)]
pub struct FaultPlan {
    /// Seed of everything random in it.
    pub seed: u64,
    /// Every rule that fits a call hits it.
    pub rules: Vec<FaultRule>,
}

/// Which calls meet which fault.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// `PutRecords`, `GetRecords`, ...; none = any.
    #[serde(default)]
    pub operation: Option<String>,
    /// Name of the stream; none = any.
    #[serde(default)]
    pub stream: Option<String>,
    /// The shard a call is about; none = any. Puts and listings are about no shard.
    #[serde(default)]
    pub shard: Option<String>,
    /// So many calls that fit go through first.
    #[serde(default)]
    pub skip: u64,
    /// So many calls are hit, then no more; none = no end.
    #[serde(default)]
    pub times: Option<u64>,
    /// The share of calls that is hit, 0 to 1; none = each.
    #[serde(default)]
    pub rate: Option<f64>,
    /// What happens.
    pub fault: FaultKind,
}

/// What can go wrong.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// ProvisionedThroughputExceededException, or LimitExceededException of an operation that does not read or write records.
    Throttle,
    /// InternalFailure, HTTP 500.
    InternalFailure,
    /// Any error.
    Error {
        /// AWS's name of it.
        code: String,
        /// HTTP status, 400 to 599.
        status: u16,
    },
    /// Single records of PutRecords are not stored.
    FailRecords {
        /// These, by index.
        #[serde(default)]
        at: Vec<usize>,
        /// And this share of the others, 0 to 1.
        #[serde(default)]
        share: f64,
        /// ProvisionedThroughputExceededException instead of InternalFailure.
        #[serde(default)]
        throttle: bool,
    },
    /// ExpiredIteratorException, however young the iterator is.
    ExpireIterator,
    /// The call begins so much later, milliseconds, at most ten minutes.
    Delay {
        /// Milliseconds.
        millis: u64,
    },
    /// The connection breaks after the effect; a subscription breaks after its first event.
    DropReply,
    /// The connection breaks before the effect.
    DropRequest,
    /// GetRecords gives this batch once more next time.
    RepeatBatch,
    /// The rule's shard is missing from listings.
    HideShard,
    /// ResourceNotFoundException, although it is there.
    NotFound,
    /// Everything in the stream is forgotten before the call.
    TrimNow,
}

impl FaultKind {
    fn name(&self) -> &'static str {
        match self {
            Self::Throttle => "throttle",
            Self::InternalFailure => "internal_failure",
            Self::Error { .. } => "error",
            Self::FailRecords { .. } => "fail_records",
            Self::ExpireIterator => "expire_iterator",
            Self::Delay { .. } => "delay",
            Self::DropReply => "drop_reply",
            Self::DropRequest => "drop_request",
            Self::RepeatBatch => "repeat_batch",
            Self::HideShard => "hide_shard",
            Self::NotFound => "not_found",
            Self::TrimNow => "trim_now",
        }
    }
}

/// What one call meets.
#[derive(Default, Debug, PartialEq)]
pub(super) struct Decision {
    pub(super) delay: Duration,
    pub(super) refuse: Option<ApiError>,
    pub(super) fail_records: Option<FailRecords>,
    pub(super) expire_iterator: bool,
    pub(super) drop_request: bool,
    pub(super) drop_reply: bool,
    pub(super) repeat: bool,
    pub(super) trim_now: bool,
    pub(super) hidden: Vec<String>,
}

/// Which records of a put fail.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FailRecords {
    at: Vec<usize>,
    share: f64,
    throttle: bool,
}

/// The plan at work.
pub(super) struct Faults {
    plan: FaultPlan,
    // Per rule: calls that fitted, calls that were hit.
    counts: Vec<(u64, u64)>,
    random: StdRng,
    calls: BTreeMap<String, u64>,
    injected: BTreeMap<&'static str, u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            plan: FaultPlan::default(),
            counts: Vec::new(),
            random: StdRng::seed_from_u64(0),
            calls: BTreeMap::new(),
            injected: BTreeMap::new(),
        }
    }
}

impl Faults {
    /// Takes a new plan; the counters go on.
    pub(super) fn set(&mut self, plan: FaultPlan) -> Result<()> {
        if plan.rules.len() > RULES_MAX {
            return Err(Fault::config(format!("a fault plan has at most {RULES_MAX} rules")));
        }
        let share = |rate: f64| (0.0..=1.0).contains(&rate);
        for rule in &plan.rules {
            let fine = rule.rate.is_none_or(share)
                && match &rule.fault {
                    FaultKind::Error { status, .. } => (400..600).contains(status),
                    FaultKind::FailRecords { share: records, .. } => share(*records),
                    FaultKind::Delay { millis } => *millis <= DELAY_MAX_MS,
                    FaultKind::HideShard => rule.shard.is_some(),
                    FaultKind::Throttle
                    | FaultKind::InternalFailure
                    | FaultKind::ExpireIterator
                    | FaultKind::DropReply
                    | FaultKind::DropRequest
                    | FaultKind::RepeatBatch
                    | FaultKind::NotFound
                    | FaultKind::TrimNow => true,
                };
            if !fine {
                return Err(Fault::config(format!(
                    "fault `{}`: a rate or share is 0 to 1, a status 400 to 599, a delay at most {DELAY_MAX_MS} ms, and a \
                     hidden shard is named",
                    rule.fault.name()
                )));
            }
        }
        self.random = StdRng::seed_from_u64(plan.seed);
        self.counts = vec![(0, 0); plan.rules.len()];
        self.plan = plan;
        Ok(())
    }

    /// Is there anything to be decided?
    pub(super) fn any(&self) -> bool {
        !self.plan.rules.is_empty()
    }

    /// Counts a call.
    pub(super) fn count(&mut self, operation: &str) {
        match self.calls.get_mut(operation) {
            Some(calls) => *calls += 1,
            None => {
                self.calls.insert(operation.to_owned(), 1);
            }
        }
    }

    /// What this call meets.
    pub(super) fn decide(&mut self, operation: &str, stream: Option<&str>, shard: Option<&str>) -> Decision {
        let mut decision = Decision::default();
        let Self { plan, counts, random, injected, .. } = self;
        for (rule, (seen, hit)) in plan.rules.iter().zip(counts) {
            let fits = |wanted: &Option<String>, is: Option<&str>| wanted.is_none() || wanted.as_deref() == is;
            let about_shard = rule.fault == FaultKind::HideShard || fits(&rule.shard, shard);
            if !fits(&rule.operation, Some(operation)) || !fits(&rule.stream, stream) || !about_shard {
                continue;
            }
            *seen += 1;
            if *seen <= rule.skip || rule.times.is_some_and(|times| *hit >= times) {
                continue;
            }
            if rule.rate.is_some_and(|rate| random.random::<f64>() >= rate) {
                continue;
            }
            *hit += 1;
            *injected.entry(rule.fault.name()).or_insert(0) += 1;
            decision.add(rule, operation, shard);
        }
        decision
    }

    /// Per record of a put: the code it fails with.
    pub(super) fn fails(&mut self, which: &FailRecords, records: usize) -> Vec<Option<&'static str>> {
        let code = if which.throttle { "ProvisionedThroughputExceededException" } else { "InternalFailure" };
        let mut fails = |at| which.at.contains(&at) || (which.share > 0.0 && self.random.random::<f64>() < which.share);
        let failing: Vec<_> = (0..records).map(|at| fails(at).then_some(code)).collect();
        *self.injected.entry("failed_records").or_insert(0) += failing.iter().flatten().count() as u64;
        failing
    }

    /// Everything, for people and tests.
    pub(super) fn state(&self) -> serde_json::Value {
        let count = |(seen, hit): &(u64, u64)| json!({ "fitted": seen, "hit": hit });
        json!({
            "plan": self.plan,
            "rules": self.counts.iter().map(count).collect::<Vec<_>>(),
            "calls": self.calls,
            "injected": self.injected,
        })
    }
}

impl Decision {
    fn add(&mut self, rule: &FaultRule, operation: &str, shard: Option<&str>) {
        let planned = "the fault plan";
        match &rule.fault {
            FaultKind::Throttle => self.refuse = Some(throttle(operation, shard.unwrap_or(planned))),
            FaultKind::InternalFailure => self.refuse = Some(ApiError::internal(format!("Internal service failure: {planned}"))),
            FaultKind::Error { code, status } => self.refuse = Some(ApiError::new(code.clone(), *status, planned)),
            FaultKind::FailRecords { at, share, throttle } => {
                self.fail_records = Some(FailRecords { at: at.clone(), share: *share, throttle: *throttle });
            }
            FaultKind::ExpireIterator => self.expire_iterator = true,
            FaultKind::Delay { millis } => self.delay += Duration::from_millis(*millis),
            FaultKind::DropReply => self.drop_reply = true,
            FaultKind::DropRequest => self.drop_request = true,
            FaultKind::RepeatBatch => self.repeat = true,
            FaultKind::HideShard => self.hidden.extend(rule.shard.clone()),
            FaultKind::NotFound => self.refuse = Some(ApiError::not_found(format!("not found: {planned}"))),
            FaultKind::TrimNow => self.trim_now = true,
        }
    }
}

fn throttle(operation: &str, shard: &str) -> ApiError {
    let data = ["PutRecord", "PutRecords", "GetRecords", "GetShardIterator"].contains(&operation);
    let code = if data { "ProvisionedThroughputExceededException" } else { "LimitExceededException" };
    ApiError::new(code, 400, rate_exceeded(shard))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(operation: &str, fault: FaultKind) -> FaultRule {
        FaultRule { operation: Some(operation.into()), stream: None, shard: None, skip: 0, times: None, rate: None, fault }
    }

    fn faults(seed: u64, rules: Vec<FaultRule>) -> Faults {
        let mut faults = Faults::default();
        faults.set(FaultPlan { seed, rules }).expect("a plan");
        faults
    }

    #[test]
    fn a_rule_hits_the_next_calls_that_fit_and_no_others() {
        let mut faults = faults(
            1,
            vec![FaultRule { shard: Some("a".into()), skip: 1, times: Some(2), ..rule("GetRecords", FaultKind::Throttle) }],
        );
        let mut throttled = |operation, shard| faults.decide(operation, Some("s"), Some(shard)).refuse.is_some();
        assert!(!throttled("GetRecords", "b") && !throttled("ListShards", "a"));
        let hits: Vec<_> = (0..5).map(|_| throttled("GetRecords", "a")).collect();
        assert_eq!(hits, [false, true, true, false, false]);
        assert_eq!(faults.state()["rules"][0], json!({ "fitted": 5, "hit": 2 }));
        assert_eq!(faults.state()["injected"]["throttle"], 2);
    }

    #[test]
    fn a_rate_is_kept_and_repeats_with_its_seed() {
        let hits = |seed| {
            let mut faults = faults(seed, vec![FaultRule { rate: Some(0.25), ..rule("GetRecords", FaultKind::DropReply) }]);
            (0..4000).map(|_| faults.decide("GetRecords", None, None).drop_reply).collect::<Vec<_>>()
        };
        assert_eq!(hits(5), hits(5));
        assert_ne!(hits(5), hits(6));
        let share = hits(5).iter().filter(|hit| **hit).count();
        assert!((800..1200).contains(&share), "{share}");
    }

    #[test]
    fn a_plan_that_cannot_be_carried_out_is_refused() {
        let mut faults = Faults::default();
        for (rate, fault) in [
            (Some(1.5), FaultKind::Throttle),
            (None, FaultKind::Error { code: "X".into(), status: 200 }),
            (None, FaultKind::FailRecords { at: vec![], share: -0.1, throttle: false }),
            (None, FaultKind::Delay { millis: u64::MAX }),
            (None, FaultKind::HideShard),
        ] {
            let plan = FaultPlan { seed: 0, rules: vec![FaultRule { rate, ..rule("ListShards", fault) }] };
            assert!(faults.set(plan.clone()).is_err(), "{plan:?}");
        }
        assert!(serde_json::from_str::<FaultPlan>(r#"{"rules":[{"fault":{"kind":"explode"}}]}"#).is_err());
        assert!(serde_json::from_str::<FaultPlan>(r#"{"rules":[{"fault":{"kind":"throttle"},"time":1}]}"#).is_err());
    }
}
