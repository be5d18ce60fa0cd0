//! `/api`: the REST API for people, made from the OpenAPI document. Useful without scripts; nothing on it is written twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Map, Value};

use super::error;
use super::page::Page;

/// Named schemas that lie within each other in an example, at most: an answer that holds itself would never end.
const MAX_DEPTH: usize = 6;

#[derive(Template)]
#[template(path = "dashboard/api.html")]
struct ReferencePage<'a> {
    page: Page,
    view: &'a View,
}

#[derive(Debug, Default, PartialEq)]
struct View {
    description: String,
    groups: Vec<Group>,
    schemas: Vec<Schema>,
    /// Answers that any operation may give.
    common: Vec<Answer>,
}

#[derive(Debug, Default, PartialEq)]
struct Group {
    name: String,
    description: String,
    operations: Vec<Operation>,
}

#[derive(Debug, Default, PartialEq)]
struct Operation {
    /// In the page's address.
    id: String,
    method: String,
    path: String,
    summary: String,
    description: Vec<String>,
    /// `None`: open to all.
    scope: Option<String>,
    parameters: Vec<Parameter>,
    bodies: Vec<Answer>,
    answers: Vec<Answer>,
    curl: String,
    example: Option<String>,
}

#[derive(Debug, Default, PartialEq)]
struct Parameter {
    name: String,
    place: String,
    kind: String,
    required: bool,
    description: String,
}

/// An answer or a body.
#[derive(Debug, Default, PartialEq)]
struct Answer {
    status: String,
    media: String,
    kind: String,
    /// The named schema, for a link.
    schema: Option<String>,
    description: String,
}

#[derive(Debug, Default, PartialEq)]
struct Schema {
    name: String,
    description: String,
    fields: Vec<Parameter>,
    /// Of a schema without fields.
    kind: String,
}

/// The page over `document`, an OpenAPI 3.1 document as JSON. A document that cannot be read gives a page without entries.
pub fn reference(document: &[u8]) -> Router {
    let document: Value = serde_json::from_slice(document).unwrap_or_default();
    Router::new().route("/api", get(page)).with_state(Arc::new(Document(&document).view()))
}

async fn page(State(view): State<Arc<View>>) -> Response {
    error::html(StatusCode::OK, &ReferencePage { page: Page::new("REST API", "/api"), view: &view })
}

struct Document<'a>(&'a Value);

impl<'a> Document<'a> {
    fn view(&self) -> View {
        let mut groups: Vec<Group> = list(&self.0["tags"])
            .iter()
            .map(|tag| Group {
                name: text(&tag["name"]),
                description: text(&tag["description"]),
                operations: Vec::new(),
            })
            .collect();
        for (path, item) in map(&self.0["paths"]) {
            for (method, operation) in map(item) {
                let tag = operation["tags"][0].as_str().unwrap_or_default();
                if let Some(group) = groups.iter_mut().find(|group| group.name == tag) {
                    group.operations.push(self.operation(method, path, operation));
                }
            }
        }
        groups.retain(|group| !group.operations.is_empty());
        let schemas = map(&self.0["components"]["schemas"]).map(|(name, schema)| self.schema(name, schema)).collect();
        let common = self.common().into_iter().map(|(status, name)| {
            let mut answer = self.answer(&status, &self.0["components"]["responses"][&name]);
            answer.status = status;
            answer
        });
        View { description: text(&self.0["info"]["description"]), groups, schemas, common: common.collect() }
    }

    /// Status and name of the shared answers, as the first operation that uses each has them.
    fn common(&self) -> BTreeMap<String, String> {
        let operations = map(&self.0["paths"]).flat_map(|(_, item)| map(item)).map(|(_, operation)| operation);
        operations
            .flat_map(|operation| map(&operation["responses"]))
            .filter_map(|(status, answer)| {
                Some((status.clone(), answer["$ref"].as_str()?.rsplit('/').next()?.to_owned()))
            })
            .collect()
    }

    fn resolve(&self, value: &'a Value) -> &'a Value {
        let target = value["$ref"].as_str().and_then(|to| to.strip_prefix('#')).and_then(|to| self.0.pointer(to));
        target.unwrap_or(value)
    }

    fn operation(&self, method: &str, path: &str, operation: &'a Value) -> Operation {
        let parameters: Vec<Parameter> = list(&operation["parameters"])
            .iter()
            .map(|parameter| Parameter {
                name: text(&parameter["name"]),
                place: text(&parameter["in"]),
                kind: self.kind(&parameter["schema"]),
                required: parameter["required"].as_bool().unwrap_or(false),
                description: text(&parameter["description"]),
            })
            .collect();
        let bodies = map(&operation["requestBody"]["content"])
            .map(|(media, content)| Answer {
                media: media.clone(),
                kind: self.kind(&content["schema"]),
                schema: named(&content["schema"]),
                description: text(&operation["requestBody"]["description"]),
                ..Answer::default()
            })
            .collect();
        let answers = map(&operation["responses"])
            .filter(|(_, answer)| answer.get("$ref").is_none())
            .map(|(status, answer)| self.answer(status, answer))
            .collect();
        let paragraphs = |text: &str| text.split("\n\n").map(str::to_owned).filter(|text| !text.is_empty()).collect();
        Operation {
            id: text(&operation["operationId"]),
            method: method.to_ascii_uppercase(),
            path: path.to_owned(),
            summary: text(&operation["summary"]),
            description: paragraphs(operation["description"].as_str().unwrap_or_default()),
            scope: operation["security"][0]["bearer"][0].as_str().map(str::to_owned),
            parameters,
            bodies,
            answers,
            curl: self.curl(method, path, operation),
            example: self.answer_example(operation),
        }
    }

    fn answer(&self, status: &str, answer: &'a Value) -> Answer {
        let (media, content) =
            map(&answer["content"]).next().map_or((String::new(), &Value::Null), |(m, c)| (m.clone(), c));
        Answer {
            status: status.to_owned(),
            media,
            kind: self.kind(&content["schema"]),
            schema: named(&content["schema"]),
            description: text(&answer["description"]),
        }
    }

    fn schema(&self, name: &str, schema: &'a Value) -> Schema {
        let mut fields = Vec::new();
        self.fields(schema, &mut fields);
        let kind = if fields.is_empty() { self.kind(schema) } else { String::new() };
        Schema { name: name.to_owned(), description: text(&schema["description"]), fields, kind }
    }

    fn fields(&self, schema: &'a Value, into: &mut Vec<Parameter>) {
        for part in list(&schema["allOf"]) {
            self.fields(self.resolve(part), into);
        }
        let required = list(&schema["required"]);
        for (name, field) in map(&schema["properties"]) {
            into.push(Parameter {
                name: name.clone(),
                kind: self.kind(field),
                required: required.iter().any(|required| required == name),
                description: text(&field["description"]),
                place: String::new(),
            });
        }
    }

    /// A type in words: `integer, 1 to 500`, `array of Pin`, `string or null`.
    fn kind(&self, schema: &Value) -> String {
        if let Some(name) = named(schema) {
            return name;
        }
        for key in ["oneOf", "anyOf", "allOf"] {
            if let Some(options) = schema[key].as_array() {
                return options.iter().map(|option| self.kind(option)).collect::<Vec<_>>().join(" or ");
            }
        }
        if let Some(values) = schema["enum"].as_array() {
            return values.iter().map(literal).collect::<Vec<_>>().join(", ");
        }
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => return if schema.is_null() { String::new() } else { "any JSON".to_owned() },
        };
        let mut kind = types.join(" or ");
        if types.contains(&"array") {
            kind = kind.replace("array", &format!("array of {}", self.kind(&schema["items"])));
        }
        if schema["format"] == "binary" {
            kind = "bytes".to_owned();
        }
        match (&schema["minimum"], &schema["maximum"]) {
            (Value::Number(least), Value::Number(most)) => format!("{kind}, {least} to {most}"),
            (Value::Number(least), _) if least.as_f64() != Some(0.0) => format!("{kind}, at least {least}"),
            _ => kind,
        }
    }

    /// A request that works when the placeholders are filled in.
    fn curl(&self, method: &str, path: &str, operation: &'a Value) -> String {
        let (mut path, mut query) = (path.to_owned(), Vec::new());
        for parameter in list(&operation["parameters"]) {
            let name = parameter["name"].as_str().unwrap_or_default();
            let example =
                [&parameter["example"], &parameter["schema"]["example"]].into_iter().find(|value| !value.is_null());
            match (parameter["in"].as_str(), example) {
                (Some("path"), Some(value)) => path = path.replace(&format!("{{{name}}}"), &literal(value)),
                (Some("path"), None) => path = path.replace(&format!("{{{name}}}"), &name.to_ascii_uppercase()),
                (_, Some(value)) => query.push(format!("{name}={}", literal(value))),
                (_, None) if parameter["required"] == true => {
                    query.push(format!("{name}={}", name.to_ascii_uppercase()))
                }
                _ => {}
            }
        }
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        let content = &operation["requestBody"]["content"];
        let body = match map(content).next() {
            _ if !content["application/json"].is_null() => {
                let example = &content["application/json"]["example"];
                let example = if example.is_null() {
                    self.example(&content["application/json"]["schema"], 0)
                } else {
                    example.clone()
                };
                format!(" --json '{}'", example.to_string().replace('\'', "'\\''"))
            }
            Some((media, _)) => format!(" -H 'Content-Type: {media}' --data-binary @FILE"),
            None => String::new(),
        };
        let verb = match method {
            "get" => String::new(),
            "post" if !body.is_empty() => String::new(),
            other => format!(" -X {}", other.to_ascii_uppercase()),
        };
        format!("curl{verb}{body} \"$ADMIN{path}{query}\"")
    }

    fn answer_example(&self, operation: &'a Value) -> Option<String> {
        let answer = ["200", "201"].iter().find_map(|status| operation["responses"].get(*status))?;
        let content = answer["content"].get("application/json")?;
        let example = &content["example"];
        let example = if example.is_null() { self.example(&content["schema"], 0) } else { example.clone() };
        if example.is_null() || example == Value::Object(Map::new()) {
            return None;
        }
        serde_json::to_string_pretty(&example).ok()
    }

    /// The shape of a value: examples where the schema has them, else the type's name in its place.
    fn example(&self, schema: &'a Value, depth: usize) -> Value {
        if !schema["example"].is_null() {
            return schema["example"].clone();
        }
        if depth > MAX_DEPTH {
            return Value::Null;
        }
        let schema = self.resolve(schema);
        if !schema["example"].is_null() {
            return schema["example"].clone();
        }
        let mut object = Map::new();
        for part in list(&schema["allOf"]) {
            if let Value::Object(part) = self.example(part, depth + 1) {
                object.extend(part);
            }
        }
        for (name, field) in map(&schema["properties"]) {
            object.insert(name.clone(), self.example(field, depth + 1));
        }
        if !object.is_empty() {
            return Value::Object(object);
        }
        for key in ["oneOf", "anyOf"] {
            if let Some(option) =
                schema[key].as_array().and_then(|options| options.iter().find(|o| o["type"] != "null"))
            {
                return self.example(option, depth + 1);
            }
        }
        if let Some(first) = schema["enum"].as_array().and_then(|values| values.first()) {
            return first.clone();
        }
        let is = |name: &str| schema["type"] == name || list(&schema["type"]).iter().any(|kind| kind == name);
        if is("array") {
            return Value::Array(vec![self.example(&schema["items"], depth + 1)]);
        }
        match schema["type"]
            .as_str()
            .or_else(|| list(&schema["type"]).iter().filter_map(Value::as_str).find(|kind| *kind != "null"))
        {
            Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| 0.into()),
            Some("boolean") => false.into(),
            Some("string") => "…".into(),
            Some("object") => Value::Object(Map::new()),
            _ => Value::Null,
        }
    }
}

fn named(schema: &Value) -> Option<String> {
    schema["$ref"].as_str()?.rsplit('/').next().map(str::to_owned)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn literal(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn map(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({
            "info": {"description": "What it is"},
            "tags": [{"name": "b", "description": "Second"}, {"name": "empty"}, {"name": "a"}],
            "paths": {"/x/{id}": {
                "get": {"tags": ["b"], "operationId": "get_x", "summary": "Reads", "security": [{"bearer": ["read"]}, {}],
                    "parameters": [
                        {"name": "id", "in": "path", "required": true, "schema": {"type": "integer", "minimum": 1, "maximum": 9}, "example": 7},
                        {"name": "q", "in": "query", "schema": {"type": ["string", "null"]}},
                    ],
                    "responses": {"200": {"description": "", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Node"}}}},
                                  "400": {"$ref": "#/components/responses/Bad"}}},
                "put": {"tags": ["a"], "operationId": "put_x", "summary": "Writes", "responses": {},
                    "requestBody": {"content": {"application/json": {"schema": {"type": "object", "properties": {"it's": {"enum": ["one", "two"]}}}}}}},
            }},
            "components": {
                "responses": {"Bad": {"description": "Wrong", "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Node"}}}}},
                "schemas": {"Node": {"type": "object", "required": ["n"], "properties": {
                    "n": {"type": "integer"}, "next": {"$ref": "#/components/schemas/Node"}, "of": {"type": "array", "items": {"type": "string"}}}}},
            },
        })
    }

    #[test]
    fn every_operation_is_shown_in_the_order_of_the_tags_with_a_command_that_works() {
        let document = document();
        let view = Document(&document).view();
        assert_eq!(view.groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        let get = &view.groups[0].operations[0];
        assert_eq!(get.curl, "curl \"$ADMIN/x/7\"");
        assert_eq!((get.scope.as_deref(), get.parameters[0].kind.as_str()), (Some("read"), "integer, 1 to 9"));
        assert_eq!(get.parameters[1].kind, "string or null");
        assert_eq!(get.answers.len(), 1, "shared answers are shown once, below");
        let put = &view.groups[1].operations[0];
        assert_eq!(put.curl, r#"curl -X PUT --json '{"it'\''s":"one"}' "$ADMIN/x/{id}""#);
        assert_eq!((view.common[0].status.as_str(), view.common[0].description.as_str()), ("400", "Wrong"));
    }

    #[test]
    fn a_schema_that_holds_itself_ends() {
        let document = document();
        let view = Document(&document).view();
        assert!(view.groups[0].operations[0].example.as_ref().unwrap().len() < 2_000);
        assert_eq!(
            view.schemas[0].fields.iter().map(|field| field.kind.as_str()).collect::<Vec<_>>(),
            ["integer", "Node", "array of string"]
        );
    }

    #[test]
    fn a_document_that_is_none_gives_an_empty_page() {
        let nothing = Document(&Value::Null).view();
        assert_eq!(nothing, View::default());
    }
}
