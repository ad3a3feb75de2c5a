//! Requests as bytes, for what no HTTP client would send.

/// A `GET` with these headers; the connection is closed after the answer.
pub fn get(path: &str, headers: &[(&str, &[u8])]) -> Vec<u8> {
    request("GET", path.as_bytes(), headers)
}

/// A request without a body; the connection is closed after the answer. There is a `host` header unless `headers` has one.
pub fn request(method: &str, path: &[u8], headers: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = [method.as_bytes(), b" ", path, b" HTTP/1.1\r\nconnection: close\r\n"].concat();
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        bytes.extend(b"host: models.example\r\n");
    }
    for (name, value) in headers {
        bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    bytes.extend(b"\r\n");
    bytes
}

/// A call of the admin API with the operator's token. `headers` are whole lines, each with its line break.
pub fn admin_call(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer demo-operator-token\r\n{headers}{length}\r\n"
    );
    [head.as_bytes(), body].concat()
}
