//! One invocation, and the loop that fetches them.
//!
//! Owns: what an event leads to, how much time it has, who hears of it before it answers, the runtime's loop. Does not own: the
//! work (sluicebox_actors::pipeline), the components it works on and the observer (whoever makes them).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lambda_runtime::{Context, Diagnostic, LambdaEvent, service_fn};
use serde_json::{Value, json};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::letter::Postmark;
use sluicebox_actors::pipeline::{Handed, Parts, PipelineConfig, Places, Ticked, ingest, owner_until, tick};
use sluicebox_actors::toolkit::board::Board;
use sluicebox_aws::kinesis::kpl::{self, Bounds};

use crate::answer::Answer;
use crate::event::{Batch, Event, Role};

/// Kept back to read what is committed, to answer, and for the clocks' difference.
const RESERVE: Duration = Duration::from_millis(2_500);
/// Of what is left after the work, at most so much is for those who watch …
const SETTLING: Duration = Duration::from_secs(2);
/// … and so much is kept for the answer.
const ANSWERING: Duration = Duration::from_millis(300);
/// Where no deadline is known: emulators send one of 1970.
const UNKNOWN: Duration = Duration::from_secs(60);
/// A deadline that has passed by so much is none.
const PAST_US: i64 = 3_600_000_000;
/// What the runtime's loop reads from its environment.
const NEEDED: [&str; 4] =
    ["AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_VERSION", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"];

/// Who watches invocations. A sandbox is frozen between two of them: whatever is left to the background may never happen.
#[async_trait]
pub trait Observer: Send + Sync {
    /// Tells what an invocation raised and did, which stands on its board, before it answers: for so long at most.
    async fn settle(&self, board: &Board, time: Duration);
}

/// Nobody.
#[async_trait]
impl Observer for () {
    async fn settle(&self, _: &Board, _: Duration) {}
}

/// A pipeline that is invoked. Lambda gives a process one invocation at a time; several at once would share nothing but the
/// observer, and each might wait for what another raised.
#[derive(Clone)]
pub struct Function {
    parts: Parts,
    places: Places,
    role: Option<Role>,
    observer: Arc<dyn Observer>,
}

/// Which invocation, and until when.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Lambda's request id.
    pub id: String,
    /// Lambda ends it then, microseconds since 1970.
    pub deadline_us: i64,
}

impl Invocation {
    /// Until the deadline; none = it is not known.
    fn left(&self, now_us: i64) -> Option<Duration> {
        let left_us = self.deadline_us.saturating_sub(now_us);
        (left_us >= -PAST_US).then(|| Duration::from_micros(left_us.max(0).unsigned_abs()))
    }

    /// For work, of what is left.
    fn time(&self, now_us: i64) -> Duration {
        self.left(now_us).map_or(UNKNOWN, |left| left.saturating_sub(RESERVE).max(left / 2))
    }

    /// For those who watch, of what the work has left.
    fn settling(&self, now_us: i64) -> Duration {
        self.left(now_us).map_or(SETTLING, |left| left.saturating_sub(ANSWERING).min(SETTLING))
    }
}

impl Function {
    /// Without a role, each event says what it asks for.
    pub fn new(parts: Parts, places: Places, role: Option<Role>, observer: Arc<dyn Observer>) -> Self {
        Self { parts, places, role, observer }
    }

    /// One invocation. A fault is an error without an answer.
    pub async fn invoke(&self, event: Event, invocation: &Invocation) -> Result<Value> {
        let parts = self.parts(invocation);
        let (board, clock) = (parts.board.clone(), self.parts.clock.as_ref());
        let done = self.work(parts, event, invocation.time(clock.now_us())).await;
        if let Err(fault) = &done {
            complain(fault);
        }
        self.observer.settle(&board, invocation.settling(clock.now_us())).await;
        done
    }

    async fn work(&self, parts: Parts, event: Event, time: Duration) -> Result<Value> {
        match self.role_of(&event)? {
            Role::Ingest => match self.batch(event)? {
                Some(batch) => self.ingest(parts, batch, time).await,
                None => Ok(json!(Answer::default())),
            },
            Role::Tick => Ok(told(&tick(parts, self.places.clone(), time).await?)),
        }
    }

    fn role_of(&self, event: &Event) -> Result<Role> {
        self.role.or_else(|| event.role()).ok_or_else(|| {
            Fault::config(
                "an event that is neither a batch of Kinesis records nor a schedule's: map the function to a Kinesis stream, or \
                 say `--role tick` (SLUICEBOX_ROLE=tick) where a schedule sends an input of its own",
            )
        })
    }

    /// The records of an event, if it holds any.
    fn batch(&self, event: Event) -> Result<Option<Batch>> {
        let (batch, mine) = (event.batch()?, self.parts.stream.name());
        match batch {
            Some(batch) if batch.stream != *mine => Err(Fault::config(format!(
                "the event comes from the stream {}, and stream.name is {mine}: a pipeline has one stream",
                batch.stream
            ))),
            batch => Ok(batch),
        }
    }

    /// Whoever has a shard is named after its invocation, and so are letters. The board is new: what others did since the last
    /// invocation is not on it.
    fn parts(&self, invocation: &Invocation) -> Parts {
        let config = &self.parts.config;
        let owner = owner_until(invocation.deadline_us.max(self.parts.clock.now_us()), &invocation.id);
        let postmark = Postmark { request_id: invocation.id.as_str().into(), ..config.postmark.clone() };
        let config = Arc::new(PipelineConfig { owner, postmark, ..(**config).clone() });
        Parts { config, board: Arc::default(), ..self.parts.clone() }
    }

    async fn ingest(&self, parts: Parts, batch: Batch, time: Duration) -> Result<Value> {
        let sequences: Vec<_> = batch.records.iter().map(|record| record.sequence).collect();
        let shard = batch.shard.clone();
        let open = |records, range| kpl::open_all(records, &range, Bounds::default(), |_| {});
        let handed = Handed { shard: batch.shard, records: batch.records, open: Box::new(open) };
        let ingested = ingest(parts, self.places.clone(), handed, time).await?;
        if let Some(fault) = &ingested.fault {
            let kind = fault.kind();
            tracing::error!(%shard, ?kind, committed = %ingested.committed, %fault, "batch not done");
        }
        Ok(json!(Answer::of(&sequences, ingested)?))
    }
}

/// Nothing that was asked for may be done, and perhaps no shard has said so.
fn complain(fault: &Fault) {
    let kind = fault.kind();
    match kind {
        Kind::Retry | Kind::Fenced => tracing::error!(?kind, %fault, "invocation failed"),
        Kind::Poison | Kind::Config | Kind::Corrupt | Kind::Bug => {
            tracing::error!(alert = "invocation_failed", ?kind, %fault, "invocation failed");
        }
    }
}

fn told(ticked: &Ticked) -> Value {
    let faults = ticked.faults.iter().map(|(shard, fault)| json!({ "shard": shard, "fault": fault.to_string() }));
    json!({
        "settled": ticked.settled,
        "drained": ticked.drained,
        "moved": ticked.moved,
        "busy": ticked.busy,
        "faults": faults.collect::<Vec<_>>(),
        "gold": ticked.gold.as_ref().map(ToString::to_string),
        "outOfTime": ticked.out_of_time,
    })
}

/// An error without an answer, as Lambda shows it: its type is the kind of fault, which names the remedy.
#[derive(Debug)]
struct Refused(Fault);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Refused> for Diagnostic {
    fn from(refused: Refused) -> Self {
        Self { error_type: format!("Sluicebox.{:?}", refused.0.kind()), error_message: refused.0.to_string() }
    }
}

/// Fetches invocations and answers them, until the sandbox ends.
pub async fn serve(function: Function) -> Result<()> {
    for name in NEEDED {
        if std::env::var_os(name).is_none() {
            return Err(Fault::config(format!(
                "{name} is not set: this runs where AWS Lambda starts it (runtime provided.al2023), as `bootstrap`"
            )));
        }
    }
    let handle = service_fn(|event: LambdaEvent<Event>| {
        let function = function.clone();
        async move {
            let LambdaEvent { payload, context } = event;
            function.invoke(payload, &invocation(&context)).await.map_err(Refused)
        }
    });
    let ended = lambda_runtime::run(handle).await;
    ended.map_err(|error| Fault::caused(Kind::Retry, "asking the Lambda runtime for the next invocation", error.as_ref()))
}

fn invocation(context: &Context) -> Invocation {
    let deadline_us = i64::try_from(context.deadline).unwrap_or(i64::MAX).saturating_mul(1_000);
    Invocation { id: context.request_id.clone(), deadline_us }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_of_the_time_is_kept_back_and_a_deadline_of_1970_is_none() {
        let time = |left_ms: i64| {
            let now_us = 1_800_000_000_000_000;
            let invocation = Invocation { id: String::new(), deadline_us: now_us + left_ms * 1_000 };
            invocation.time(now_us).as_millis()
        };
        assert_eq!([60_000, 10_000, 5_000, 3_000, 0, -5].map(time), [57_500, 7_500, 2_500, 1_500, 0, 0]);
        let emulated = Invocation { id: String::new(), deadline_us: 600_000_000 };
        assert_eq!(emulated.time(1_800_000_000_000_000), UNKNOWN);
    }

    #[test]
    fn whoever_watches_gets_what_the_work_has_left_and_the_answer_keeps_some() {
        let settling = |left_ms: i64| {
            let invocation = Invocation { id: String::new(), deadline_us: 1_800_000_000_000_000 };
            invocation.settling(1_800_000_000_000_000 - left_ms * 1_000).as_millis()
        };
        assert_eq!([60_000, 2_500, 1_000, 300, 0, -5].map(settling), [2_000, 2_000, 700, 0, 0, 0]);
        assert_eq!(settling(-600_000_000 * 1_000), 2_000, "a deadline of 1970");
    }
}
