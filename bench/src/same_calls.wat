;; A filter that makes the host calls that bluegreen makes for a plain exchange, in their order, and does nothing besides.
;; A call has the name that it has in src/tests/host_calls.rs; a test compares the two.
(module
  (import "env" "proxy_call_foreign_function" (func $call_foreign_function (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_current_time_nanoseconds" (func $get_current_time (param i32) (result i32)))
  (import "env" "proxy_get_header_map_value" (func $get_header (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_remove_header_map_value" (func $remove_header (param i32 i32 i32) (result i32)))
  (import "env" "proxy_replace_header_map_value" (func $set_header (param i32 i32 i32 i32 i32) (result i32)))

  (memory (export "memory") 1)
  (data (i32.const 0) "x-bluegreen-cluster")
  (data (i32.const 32) "x-bluegreen-colour")
  (data (i32.const 64) "x-bluegreen-shadow")
  (data (i32.const 96) "x-bluegreen-version")
  (data (i32.const 128) ":path")
  (data (i32.const 160) "blue")
  (data (i32.const 168) "1")
  (data (i32.const 176) "expr_create")
  (data (i32.const 192) "expr_evaluate")
  (data (i32.const 256) "response.code_details == \22via_upstream\22 && xds.cluster_name == \22blue\22 && upstream.request_attempt_count == 1u && response.headers[\22:status\22] == \22200\22 ? null : 1")
  ;; At 512: what the host writes back. At 536: the number of the expression, once there is one. From 8192: every value
  ;; that the host returns.

  (func (export "_initialize"))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param i32) (result i32) (i32.const 8192))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_delete") (param i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))

  ;; The first request has the expression compiled.
  (func $compile
    (if (i32.eqz (i32.load (i32.const 540)))
      (then
        (drop (call $call_foreign_function
          (i32.const 176) (i32.const 11) (i32.const 256) (i32.const 160) (i32.const 512) (i32.const 516)))
        (i32.store (i32.const 540) (i32.const 1))
        (i32.store (i32.const 536) (i32.load (i32.const 8192))))))

  ;; Map 0 is the request's headers, map 2 those of the answer.
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (call $compile)
    (drop (call $get_header (i32.const 0) (i32.const 128) (i32.const 5) (i32.const 512) (i32.const 516)))
    (drop (call $get_current_time (i32.const 528)))
    (drop (call $set_header (i32.const 0) (i32.const 32) (i32.const 18) (i32.const 160) (i32.const 4)))
    (drop (call $remove_header (i32.const 0) (i32.const 64) (i32.const 18)))
    (drop (call $set_header (i32.const 0) (i32.const 0) (i32.const 19) (i32.const 160) (i32.const 4)))
    (i32.const 0))

  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
    (drop (call $get_current_time (i32.const 528)))
    (drop (call $call_foreign_function
      (i32.const 192) (i32.const 13) (i32.const 536) (i32.const 4) (i32.const 512) (i32.const 516)))
    (drop (call $set_header (i32.const 2) (i32.const 32) (i32.const 18) (i32.const 160) (i32.const 4)))
    (drop (call $set_header (i32.const 2) (i32.const 96) (i32.const 19) (i32.const 168) (i32.const 1)))
    (i32.const 0))

  (func (export "proxy_on_log") (param i32)
    (drop (call $get_current_time (i32.const 528)))))
