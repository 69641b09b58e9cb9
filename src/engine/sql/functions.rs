//! Our own scalar functions: `hour_bucket` and `json_get`.
//!
//! Owns: what they compute. Does not own: who may call them (check), the aggregates.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, StringBuilder};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use sluicebox_actors::model::window::HOUR_US;
use sonic_rs::{JsonValueTrait, PointerNode};

/// All of them.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    let hour = HourBucket { signature: Signature::user_defined(Volatility::Immutable) };
    let texts = vec![DataType::Utf8, DataType::Utf8];
    let json = JsonGet { signature: Signature::exact(texts, Volatility::Immutable) };
    vec![Arc::new(ScalarUDF::from(hour)), Arc::new(ScalarUDF::from(json))]
}

/// `hour_bucket(time)`: the start of its hour in UTC as RFC 3339 text, `2026-11-23T15:00:00Z`.
#[derive(PartialEq, Eq, Hash, Debug)]
struct HourBucket {
    signature: Signature,
}

/// Start of an hour as text; `hour` counts from 1970.
pub(crate) fn hour_text(hour: i64) -> String {
    let (days, hour) = (hour.div_euclid(24), hour.rem_euclid(24));
    // Days since 0000-03-01, in 400-year eras (Howard Hinnant's algorithm).
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:00:00Z")
}

impl ScalarUDFImpl for HourBucket {
    fn name(&self) -> &str {
        "hour_bucket"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if let [DataType::Timestamp(_, zone)] = types {
            Ok(vec![DataType::Timestamp(TimeUnit::Microsecond, zone.clone())])
        } else {
            Err(DataFusionError::Plan("hour_bucket takes one timestamp, for example hour_bucket(event_time)".to_owned()))
        }
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let times = columns.first().and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        let times = times.ok_or_else(|| DataFusionError::Internal("hour_bucket got no timestamp".to_owned()))?;
        let mut out = StringBuilder::with_capacity(times.len(), times.len() * 20);
        // Neighbours mostly share their hour.
        let (mut last, mut text) = (i64::MIN, String::new());
        for time in times {
            let Some(time) = time else {
                out.append_null();
                continue;
            };
            let hour = time.div_euclid(HOUR_US);
            if hour != last {
                (last, text) = (hour, hour_text(hour));
            }
            out.append_value(&text);
        }
        Ok(ColumnarValue::Array(Arc::new(out.finish())))
    }
}

/// `json_get(text, 'a.b[0].c')`: a member of a JSON text. Strings come unquoted, everything else as written; a missing member,
/// JSON null and a text that is not JSON give NULL.
#[derive(PartialEq, Eq, Hash, Debug)]
struct JsonGet {
    signature: Signature,
}

fn parse_path(path: &str) -> Option<Vec<PointerNode>> {
    let mut nodes = Vec::new();
    for part in path.split('.') {
        let (name, indexes) = part.split_at(part.find('[').unwrap_or(part.len()));
        if !name.is_empty() {
            nodes.push(PointerNode::Key(name.to_owned().into()));
        } else if indexes.is_empty() || !nodes.is_empty() {
            return None;
        }
        for index in indexes.split_inclusive(']') {
            let index = index.strip_prefix('[')?.strip_suffix(']')?;
            nodes.push(PointerNode::Index(index.parse().ok()?));
        }
    }
    Some(nodes)
}

fn member(text: &str, path: &[PointerNode], out: &mut StringBuilder) {
    let Ok(value) = sonic_rs::get(text, path) else { return out.append_null() };
    if value.is_null() {
        out.append_null();
    } else if let Some(text) = value.as_str() {
        out.append_value(text);
    } else {
        out.append_value(value.as_raw_str());
    }
}

fn json_get(texts: &StringArray, paths: &StringArray) -> Result<ArrayRef> {
    let bad = || DataFusionError::Execution("json_get takes a path such as 'a.b' or 'a[0].b'".to_owned());
    let mut out = StringBuilder::with_capacity(texts.len(), texts.len() * 16);
    let mut parsed: Option<(String, Vec<PointerNode>)> = None;
    for (text, path) in texts.iter().zip(paths) {
        let (Some(text), Some(path)) = (text, path) else {
            out.append_null();
            continue;
        };
        let nodes = match &mut parsed {
            Some((last, nodes)) if last == path => nodes,
            other => &mut other.insert((path.to_owned(), parse_path(path).ok_or_else(bad)?)).1,
        };
        member(text, nodes, &mut out);
    }
    Ok(Arc::new(out.finish()))
}

impl ScalarUDFImpl for JsonGet {
    fn name(&self) -> &str {
        "json_get"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let texts: Vec<&StringArray> = columns.iter().filter_map(|column| column.as_string_opt::<i32>()).collect();
        let [text, path] = texts.as_slice() else {
            return Err(DataFusionError::Internal("json_get got something else than two texts".to_owned()));
        };
        Ok(ColumnarValue::Array(json_get(text, path)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_hour_is_written_as_chrono_writes_it(hour in -10_000_000i64..70_000_000) {
            let chrono = chrono::DateTime::from_timestamp(hour * 3600, 0).expect("in range");
            prop_assume!(chrono.format("%Y").to_string().len() == 4);
            prop_assert_eq!(hour_text(hour), chrono.format("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
    }

    #[test]
    fn members_come_unquoted_and_what_is_not_there_is_null() {
        let text = r#"{"a":{"b":"x\ny","n":1.50,"z":null,"l":[{"c":true}]},"t":"q"}"#;
        let cases = [
            ("t", Some("q")),
            ("a.b", Some("x\ny")),
            ("a.n", Some("1.50")),
            ("a.z", None),
            ("a.l[0].c", Some("true")),
            ("a.l", Some(r#"[{"c":true}]"#)),
            ("a.l[1]", None),
            ("no", None),
        ];
        for (path, expected) in cases {
            let out = json_get(&StringArray::from(vec![text]), &StringArray::from(vec![path])).expect("a path");
            assert_eq!(out.as_string::<i32>().iter().next().flatten(), expected, "{path}");
        }
        for path in ["", "a..b", "a[x]", "a[0"] {
            assert!(json_get(&StringArray::from(vec![text]), &StringArray::from(vec![path])).is_err(), "{path}");
        }
        let out = json_get(&StringArray::from(vec!["{nonsense"]), &StringArray::from(vec!["a"])).expect("a path");
        assert!(out.is_null(0));
    }
}
