;; Weighted random choice: a server with twice the weight gets twice the flows, on average.
;;
;; It needs no memory of what was before, so workers that know nothing of each other do not march
;; in step, and a burst of flows does not meet an order that someone could guess.
;;
;; shunt takes this file as it is: shunt plugin upload random.wat. ABI.md says what the addresses,
;; offsets and calls are.
(module $random
  ;; The next number of this instance's generator. Its seed differs with worker and service.
  (import "shunt" "random" (func $random (result i64)))

  ;; One page of 64 KiB:
  ;;     64  the table
  ;;   4096  1024 server records of 32 bytes
  ;;  36864  1024 sums of 4 bytes: the weights of all slots up to and with this one
  (memory (export "memory") 1)
  (global $count i32 (i32.const 88))      ;; address of the table's `count`, at its offset 24
  (global $servers i32 (i32.const 4096))
  (global $sums i32 (i32.const 36864))

  ;; The table as the host reads it when shunt_init returns. What is left out is 0: not wanted.
  (data (i32.const 64)
    "\01\00\00\00"    ;; abi_version: 1
    "\00\00\00\00"    ;; wants: no connections
    "\00\04\00\00"    ;; capacity: 1024
    "\00\10\00\00")   ;; servers: 4096

  ;; The label that `shunt plugin list` shows.
  (@custom "shunt.version" "1.0.0")

  (func (export "shunt_abi_version") (result i32) (i32.const 1))

  (func (export "shunt_init") (param $worker i32) (param $workers i32) (param $seed i64)
    (result i32)
    (i32.const 64))

  ;; The servers or their weights have changed: add the weights up.
  (func (export "shunt_update")
    (local $slot i32) (local $sum i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $slot) (i32.load (global.get $count))))
        (local.set $sum
          (i32.add (local.get $sum)
            (i32.load                            ;; the weight, at offset 0 of the record
              (i32.add (global.get $servers)
                (i32.shl (local.get $slot) (i32.const 5))))))
        (i32.store
          (i32.add (global.get $sums) (i32.shl (local.get $slot) (i32.const 2)))
          (local.get $sum))
        (local.set $slot (i32.add (local.get $slot) (i32.const 1)))
        (br $next))))

  ;; The sum up to and with a slot. At most 65535 * 1024, which fits.
  (func $sum (param $slot i32) (result i32)
    (i32.load (i32.add (global.get $sums) (i32.shl (local.get $slot) (i32.const 2)))))

  ;; The first slot whose sum is above a number drawn evenly from 0 to the sum of all. The sum of a
  ;; slot of weight 0, drained or empty, is that of the slot before: it is never the first.
  (func (export "shunt_schedule") (result i32)
    (local $low i32) (local $high i32) (local $middle i32) (local $drawn i32)
    (local.set $high (i32.load (global.get $count)))
    (if (i32.eqz (local.get $high)) (then (return (i32.const -1))))
    (local.set $high (i32.sub (local.get $high) (i32.const 1)))
    ;; Nobody takes new flows: decline.
    (if (i32.eqz (call $sum (local.get $high))) (then (return (i32.const -1))))
    ;; The upper 32 bits of the random number, as a fraction of the sum of all.
    (local.set $drawn
      (i32.wrap_i64
        (i64.shr_u
          (i64.mul
            (i64.shr_u (call $random) (i64.const 32))
            (i64.extend_i32_u (call $sum (local.get $high))))
          (i64.const 32))))
    ;; The slot is from $low to $high.
    (block $found
      (loop $halve
        (br_if $found (i32.eq (local.get $low) (local.get $high)))
        (local.set $middle
          (i32.shr_u (i32.add (local.get $low) (local.get $high)) (i32.const 1)))
        (if (i32.gt_u (call $sum (local.get $middle)) (local.get $drawn))
          (then (local.set $high (local.get $middle)))
          (else (local.set $low (i32.add (local.get $middle) (i32.const 1)))))
        (br $halve)))
    (local.get $low)))
