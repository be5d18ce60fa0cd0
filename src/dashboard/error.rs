//! Error pages of the dashboard.

use askama::Template;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};

use super::filters;
use super::page::Page;

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    page: Page,
    heading: String,
    text: String,
    next: String,
}

/// A template as a response; a template that fails is our fault and says so.
pub fn html(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be rendered");
            (StatusCode::INTERNAL_SERVER_ERROR, "the page could not be rendered; the log has the reason")
                .into_response()
        }
    }
}

pub fn error(status: StatusCode, heading: &str, text: String, next: &str) -> Response {
    let page = Page::new(heading, "");
    html(status, &ErrorPage { page, heading: heading.to_owned(), text, next: next.to_owned() })
}

pub async fn not_found(uri: Uri) -> Response {
    let text = format!("There is nothing at {}.", filters::tame(uri.path(), 200));
    error(StatusCode::NOT_FOUND, "Not found", text, "Content is served by the gateway, on its own address.")
}

pub async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let text = format!("{} does not take {}.", filters::tame(uri.path(), 200), filters::tame(method.as_str(), 20));
    error(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", text, "Pages are read with GET.")
}
