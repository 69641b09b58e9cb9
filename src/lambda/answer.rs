//! What Lambda is told of a batch, under ReportBatchItemFailures.
//!
//! Lambda goes on behind a batch without failures. Of several failures the lowest sequence number counts, and everything from
//! there on is handed over again; so one is enough. An error without an answer has the batch halved, where that is on.
//!
//! Owns: which of these follows from what is committed. Does not own: what is committed (sluicebox_actors::pipeline::ingest).

use serde::Serialize;
use sluicebox_actors::model::fault::{Fault, Kind};
use sluicebox_actors::model::position::{Position, Sequence};
use sluicebox_actors::pipeline::Ingested;

/// The answer, in Lambda's own words.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// None = all is done.
    pub batch_item_failures: Vec<Failure>,
}

/// From here on nothing is done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// A sequence number.
    pub item_identifier: String,
}

impl Answer {
    /// What follows for records with these numbers, in order. A fault is an error without an answer.
    pub fn of(sequences: &[Sequence], ingested: Ingested) -> Result<Self, Fault> {
        let Some(first) = sequences.iter().find(|sequence| Position::after(**sequence) > ingested.committed) else {
            return Ok(Self::default());
        };
        let nothing = sequences.first() == Some(first) && sequences.len() > 1;
        match ingested.fault {
            // One record may be the cause of our fault: halves find it, and its neighbours go on.
            Some(fault) if fault.kind() == Kind::Bug && nothing => Err(fault),
            Some(_) | None => Ok(Self { batch_item_failures: vec![Failure { item_identifier: first.to_string() }] }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers() -> Vec<Sequence> {
        [5, 7, 11].map(Sequence::dense).to_vec()
    }

    fn failed(committed: u64, fault: Option<Fault>) -> Result<Vec<String>, Fault> {
        let committed = Position::after(Sequence::dense(committed));
        let answer = Answer::of(&numbers(), Ingested { committed, fault })?;
        Ok(answer.batch_item_failures.into_iter().map(|failure| failure.item_identifier).collect())
    }

    #[test]
    fn only_what_is_committed_is_acknowledged_whatever_went_wrong() {
        for fault in [None, Some(Fault::retry("x")), Some(Fault::fenced("x")), Some(Fault::corrupt("x"))] {
            let of = |committed| failed(committed, fault.clone()).expect("an answer");
            assert_eq!([of(4), of(5), of(7)], [["5"], ["7"], ["11"]]);
            assert_eq!(of(11), Vec::<String>::new());
            assert_eq!(of(12), Vec::<String>::new());
        }
    }

    #[test]
    fn a_fault_of_ours_that_let_nothing_through_has_the_batch_halved_down_to_one_record() {
        let bug = || Some(Fault::bug("x"));
        assert!(failed(4, bug()).is_err());
        assert_eq!(failed(5, bug()).expect("an answer"), ["7"]);
        let alone = Answer::of(&[Sequence::dense(5)], Ingested { committed: Position::START, fault: bug() });
        assert_eq!(alone.expect("an answer").batch_item_failures.len(), 1);
    }

    #[test]
    fn the_answer_is_written_as_lambda_reads_it() {
        let text = |answer| serde_json::to_string(&answer).expect("writes");
        assert_eq!(text(Answer::default()), r#"{"batchItemFailures":[]}"#);
        let failures = vec![Failure { item_identifier: "49".to_owned() }];
        assert_eq!(text(Answer { batch_item_failures: failures }), r#"{"batchItemFailures":[{"itemIdentifier":"49"}]}"#);
    }
}
