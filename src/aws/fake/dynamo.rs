//! DynamoDB in memory: tables, conditional writes, queries page by page.
//!
//! Every call is atomic under one mutex. What it has not: indexes, projections, transactions, batches, expiry.
//!
//! Owns: tables and what each operation does to them. Does not own: expressions, items (below), the socket (server).

use std::collections::BTreeMap;

use axum::response::Response;
use serde_json::{Value, json};

use crate::json;
use crate::server::{Call, Fake, Locked, Service};

mod expression;
mod item;

use expression::{Condition, Names};
use item::{ITEM_MAX, Item, Refused};

const PAGE_BYTES: usize = 1 << 20;

/// A DynamoDB on a loopback port. It ends when dropped.
pub type FakeDynamo = Fake<State>;

impl FakeDynamo {
    /// A page of Query and Scan holds at most so many items; without it, 1 MiB as in AWS.
    pub fn page_items(&self, items: usize) {
        self.lock().page_items = Some(items);
    }

    /// A table with this hash key that somebody else has written: it holds exactly these items.
    pub fn given(&self, table: &str, hash_key: &str, items: &[Value]) -> Result<(), String> {
        let keys = vec![hash_key.to_owned()];
        let description = json!({"TableName": table, "TableStatus": "ACTIVE",
            "KeySchema": [{"AttributeName": hash_key, "KeyType": "HASH"}],
            "AttributeDefinitions": [{"AttributeName": hash_key, "AttributeType": "S"}]});
        let mut given = Table { keys, description, items: BTreeMap::new(), recoverable: false };
        for item in items {
            let item = item::item(item)?;
            given.items.insert(given.key(&item)?, item);
        }
        self.lock().tables.insert(table.to_owned(), given);
        Ok(())
    }

    /// Is point-in-time recovery of a table on?
    pub fn is_recoverable(&self, table: &str) -> bool {
        self.lock().tables.get(table).is_some_and(|table| table.recoverable)
    }

    /// How many items a table has.
    pub fn items(&self, table: &str) -> usize {
        self.lock().tables.get(table).map_or(0, |table| table.items.len())
    }
}

type Key = Vec<Vec<u8>>;

struct Table {
    /// Names of the hash key and, if there is one, of the range key.
    keys: Vec<String>,
    description: Value,
    items: BTreeMap<Key, Item>,
    /// Point-in-time recovery is on.
    recoverable: bool,
}

impl Table {
    fn backups(&self) -> Value {
        let status = if self.recoverable { "ENABLED" } else { "DISABLED" };
        json!({"ContinuousBackupsDescription": {"ContinuousBackupsStatus": "ENABLED",
            "PointInTimeRecoveryDescription": {"PointInTimeRecoveryStatus": status}}})
    }

    fn key(&self, item: &Item) -> Result<Key, Refused> {
        let part = |name: &String| {
            let value = item.get(name).ok_or_else(|| format!("Missing the key {name} in the item"))?;
            let text = item::text(value).ok_or("Type mismatch for key: this fake has string keys")?;
            if text.is_empty() {
                return Err("One or more parameter values are not valid: a key attribute is empty".to_owned());
            }
            Ok(text.as_bytes().to_vec())
        };
        self.keys.iter().map(part).collect()
    }

    fn key_of(&self, item: &Item) -> Value {
        let parts = self.keys.iter().filter_map(|name| Some((name.clone(), item.get(name)?.clone())));
        Value::Object(parts.collect())
    }
}

/// What it holds.
#[derive(Default)]
pub struct State {
    tables: BTreeMap<String, Table>,
    page_items: Option<usize>,
}

/// Why a call did not succeed.
enum Failure {
    Validation(String),
    NotFound(String),
    InUse(String),
    Condition(Option<Item>),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::Validation(refused)
    }
}

impl From<&str> for Failure {
    fn from(refused: &str) -> Self {
        Self::Validation(refused.into())
    }
}

impl Service for Locked<State> {
    fn operation(&self, call: &Call) -> String {
        json::operation(call)
    }

    fn answer(&self, operation: &str, call: &Call) -> Response {
        let done = serde_json::from_slice(&call.body)
            .map_err(|_| Failure::from("the body is not JSON"))
            .and_then(|request: Value| self.lock().perform(operation, &request));
        match done {
            Ok(body) => json::respond(200, &body),
            Err(Failure::Validation(message)) => error(400, "ValidationException", &message),
            Err(Failure::NotFound(message)) => error(400, "ResourceNotFoundException", &message),
            Err(Failure::InUse(message)) => error(400, "ResourceInUseException", &message),
            Err(Failure::Condition(old)) => {
                let mut body = error_body("ConditionalCheckFailedException", "The conditional request failed");
                if let Some(old) = old {
                    body["Item"] = item::to_json(&old);
                }
                json::respond(400, &body)
            }
        }
    }

    fn refusal(&self, status: u16, code: &str) -> Response {
        error(status, code, "ordered by the test")
    }

    fn throttled(&self) -> Response {
        error(400, "ProvisionedThroughputExceededException", "The level of configured provisioned throughput was exceeded")
    }
}

fn error_body(code: &str, message: &str) -> Value {
    json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": message})
}

fn error(status: u16, code: &str, message: &str) -> Response {
    json::respond(status, &error_body(code, message))
}

impl State {
    fn perform(&mut self, operation: &str, request: &Value) -> Result<Value, Failure> {
        let name = request["TableName"].as_str().ok_or("TableName is missing")?.to_owned();
        if operation == "CreateTable" {
            return self.create(name, request);
        }
        let page_items = self.page_items;
        let table = self.tables.get_mut(&name);
        let table = table.ok_or_else(|| Failure::NotFound(format!("Requested resource not found: Table: {name} not found")))?;
        match operation {
            "DescribeTable" => Ok(json!({"Table": table.description})),
            "DescribeContinuousBackups" => Ok(table.backups()),
            "UpdateContinuousBackups" => {
                table.recoverable = request["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] == true;
                Ok(table.backups())
            }
            "GetItem" => {
                let key = table.key(&item::item(&request["Key"])?)?;
                Ok(table.items.get(&key).map_or_else(|| json!({}), |found| json!({"Item": item::to_json(found)})))
            }
            "PutItem" | "UpdateItem" | "DeleteItem" => write(table, operation, request),
            "Query" | "Scan" => read_page(table, operation, request, page_items),
            _ => Err(Failure::Validation(format!("this fake does not know {operation}"))),
        }
    }

    fn create(&mut self, name: String, request: &Value) -> Result<Value, Failure> {
        if self.tables.contains_key(&name) {
            return Err(Failure::InUse(format!("Table already exists: {name}")));
        }
        let mut keys = Vec::new();
        for wanted in ["HASH", "RANGE"] {
            let schema = request["KeySchema"].as_array().into_iter().flatten();
            let mut parts = schema.filter(|part| part["KeyType"] == wanted);
            keys.extend(parts.next().and_then(|part| part["AttributeName"].as_str()).map(str::to_owned));
        }
        let defined = request["AttributeDefinitions"].as_array().into_iter().flatten();
        let defined: Vec<&str> = defined.filter_map(|attribute| attribute["AttributeName"].as_str()).collect();
        if keys.is_empty() || keys.len() != defined.len() || !keys.iter().all(|key| defined.contains(&key.as_str())) {
            return Err("One or more parameter values were invalid: keys and attribute definitions differ".into());
        }
        let description = json!({
            "TableName": name, "TableStatus": "ACTIVE", "KeySchema": request["KeySchema"],
            "AttributeDefinitions": request["AttributeDefinitions"],
            "BillingModeSummary": {"BillingMode": request["BillingMode"]},
        });
        let answer = json!({"TableDescription": description});
        self.tables.insert(name, Table { keys, description, items: BTreeMap::new(), recoverable: false });
        Ok(answer)
    }
}

fn read_condition(request: &Value, field: &str, names: &Names) -> Result<Option<Condition>, Refused> {
    request[field].as_str().map(|source| expression::condition(source, names)).transpose()
}

fn write(table: &mut Table, operation: &str, request: &Value) -> Result<Value, Failure> {
    let names = Names::of(request)?;
    let condition = read_condition(request, "ConditionExpression", &names)?;
    let actions = request["UpdateExpression"].as_str().map(|source| expression::update(source, &names)).transpose()?;
    names.all_used()?;
    let given = item::item(if operation == "PutItem" { &request["Item"] } else { &request["Key"] })?;
    let key = table.key(&given)?;
    let old = table.items.get(&key).cloned();
    if let Some(condition) = condition
        && !condition.holds(&old.clone().unwrap_or_default())?
    {
        let wanted = request["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD";
        return Err(Failure::Condition(old.filter(|_| wanted)));
    }
    let new = match operation {
        "PutItem" => Some(given),
        "UpdateItem" => {
            let actions = actions.unwrap_or_default();
            if let Some(name) = expression::touched(&actions).find(|name| table.keys.contains(name)) {
                return Err(Failure::Validation(format!("Cannot update attribute {name}. This attribute is part of the key")));
            }
            Some(expression::apply(&actions, &old.clone().unwrap_or(given))?)
        }
        _ => None,
    };
    if new.as_ref().is_some_and(|new| item::size(new) > ITEM_MAX) {
        return Err("Item size has exceeded the maximum allowed size".into());
    }
    let returned = match request["ReturnValues"].as_str() {
        Some("ALL_NEW") => new.as_ref(),
        Some("ALL_OLD") => old.as_ref(),
        Some(_) | None => None,
    };
    let answer = returned.map_or_else(|| json!({}), |item| json!({"Attributes": item::to_json(item)}));
    match new {
        Some(new) => table.items.insert(key, new),
        None => table.items.remove(&key),
    };
    Ok(answer)
}

fn read_page(table: &Table, operation: &str, request: &Value, page_items: Option<usize>) -> Result<Value, Failure> {
    let names = Names::of(request)?;
    let wanted = read_condition(request, "KeyConditionExpression", &names)?;
    let filter = read_condition(request, "FilterExpression", &names)?;
    names.all_used()?;
    if (operation == "Query") != wanted.is_some() {
        return Err("Query has a KeyConditionExpression, Scan has none".into());
    }
    let after = match request.get("ExclusiveStartKey").filter(|key| !key.is_null()) {
        Some(key) => Some(table.key(&item::item(key)?)?),
        None => None,
    };
    let limit = request["Limit"].as_u64().map(|limit| limit as usize);
    let limit = limit.into_iter().chain(page_items).min().unwrap_or(usize::MAX);
    let backward = request["ScanIndexForward"] == false;
    let mut rows: Vec<(&Key, &Item)> = table.items.iter().collect();
    if backward {
        rows.reverse();
    }
    let (mut found, mut scanned, mut bytes, mut last) = (Vec::new(), 0, 0, None);
    for (key, row) in rows {
        let passed = after.as_ref().is_some_and(|after| if backward { key >= after } else { key <= after });
        if passed || !wanted.as_ref().map_or(Ok(true), |wanted| wanted.holds(row))? {
            continue;
        }
        scanned += 1;
        bytes += item::size(row);
        if filter.as_ref().map_or(Ok(true), |filter| filter.holds(row))? {
            found.push(item::to_json(row));
        }
        // As AWS: a page that is full says where it ended, even if nothing follows.
        if scanned >= limit || bytes >= PAGE_BYTES {
            last = Some(table.key_of(row));
            break;
        }
    }
    let mut answer = json!({"Items": found, "Count": found.len(), "ScannedCount": scanned});
    if let Some(last) = last {
        answer["LastEvaluatedKey"] = last;
    }
    Ok(answer)
}
