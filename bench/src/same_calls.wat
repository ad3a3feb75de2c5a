;; A filter that makes the 17 host calls that bluegreen made for a plain exchange before it counted in its own memory, in
;; their order, and does nothing besides.
(module
  (import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_current_time_nanoseconds" (func $now (param i32) (result i32)))
  (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_metric" (func $metric (param i32 i32) (result i32)))
  (import "env" "proxy_increment_metric" (func $add (param i32 i64) (result i32)))
  (import "env" "proxy_remove_header_map_value" (func $remove (param i32 i32 i32) (result i32)))
  (import "env" "proxy_replace_header_map_value" (func $set (param i32 i32 i32 i32 i32) (result i32)))

  (memory (export "memory") 1)
  (data (i32.const 0) "x-bluegreen-cluster")
  (data (i32.const 32) "x-bluegreen-colour")
  (data (i32.const 64) "x-bluegreen-shadow")
  (data (i32.const 96) "x-bluegreen-version")
  (data (i32.const 128) ":path")
  (data (i32.const 144) ":status")
  (data (i32.const 160) "blue")
  (data (i32.const 168) "1")
  (data (i32.const 176) "lean.0")
  ;; From 256: six numbers of metrics. From 512: what the host writes back. From 8192: every value that it returns.

  (func (export "_initialize"))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param i32) (result i32) (i32.const 8192))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_delete") (param i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))

  ;; Defines the gauges lean.0 and lean.1 and the counters lean.2 to lean.5.
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (local $metric i32)
    (loop $next
      (i32.store8 (i32.const 181) (i32.add (i32.const 48) (local.get $metric)))
      (drop (call $define
        (i32.lt_u (local.get $metric) (i32.const 2))
        (i32.const 176) (i32.const 6)
        (i32.add (i32.const 256) (i32.mul (i32.const 4) (local.get $metric)))))
      (local.set $metric (i32.add (local.get $metric) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $metric) (i32.const 6))))
    (i32.const 1))

  ;; Map 0 is the request's headers, map 2 those of the answer.
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (drop (call $get (i32.const 0) (i32.const 128) (i32.const 5) (i32.const 512) (i32.const 516)))
    (drop (call $metric (i32.load (i32.const 256)) (i32.const 520)))
    (drop (call $now (i32.const 528)))
    (drop (call $set (i32.const 0) (i32.const 32) (i32.const 18) (i32.const 160) (i32.const 4)))
    (drop (call $remove (i32.const 0) (i32.const 64) (i32.const 18)))
    (drop (call $set (i32.const 0) (i32.const 0) (i32.const 19) (i32.const 160) (i32.const 4)))
    (drop (call $add (i32.load (i32.const 264)) (i64.const 1)))
    (drop (call $add (i32.load (i32.const 260)) (i64.const 1)))
    (i32.const 0))

  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
    (drop (call $get (i32.const 2) (i32.const 144) (i32.const 7) (i32.const 512) (i32.const 516)))
    (drop (call $now (i32.const 528)))
    (drop (call $set (i32.const 2) (i32.const 32) (i32.const 18) (i32.const 160) (i32.const 4)))
    (drop (call $set (i32.const 2) (i32.const 96) (i32.const 19) (i32.const 168) (i32.const 1)))
    (i32.const 0))

  (func (export "proxy_on_log") (param i32)
    (drop (call $add (i32.load (i32.const 260)) (i64.const -1)))
    (drop (call $now (i32.const 528)))
    (drop (call $add (i32.load (i32.const 268)) (i64.const 1)))
    (drop (call $add (i32.load (i32.const 272)) (i64.const 1)))
    (drop (call $add (i32.load (i32.const 276)) (i64.const 1)))))
