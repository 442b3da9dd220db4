// Multi-layer perceptrons with layer normalisation and SiLU between their layers, all layers in one call.
//
// A block of rows goes through the whole network while it is in the cache: products, then normalisation, activation and
// rounding in passes over what was just computed. Every row is computed alike, whatever rows there are beside it: how
// candidates are divided among calls and threads changes no number. Arithmetic between the products is in single
// precision throughout; weights and what is multiplied with them are in the precision of the call: single or half
// precision, or whole numbers of 16 or 8 bits, of which a processor multiplies up to twice or four times as many.
// Actions, which are few beside states and are what is searched for, stay in single precision.
//
// Compiled by fused.py with -march=native.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include <immintrin.h>
#include <unistd.h>

namespace {

#if defined(__AVX512BW__)
constexpr int VECTOR = 64, PANEL = 4;  // bytes of a vector; vectors side by side in a tile of the output
#elif defined(__AVX2__)
constexpr int VECTOR = 32, PANEL = 2;
#else
constexpr int VECTOR = 16, PANEL = 2;
#endif
constexpr int LANES = VECTOR / 4;
constexpr int ROWS = 6;                // of a tile: with PANEL vectors each they fill the registers
constexpr int64_t BLOCK = 4 * ROWS;    // rows that go through the network together
constexpr int64_t ALIGN = 64, PAD = 32;  // numbers that every row of scratch memory is a multiple of

typedef float Floats __attribute__((vector_size(VECTOR)));
typedef int32_t Ints __attribute__((vector_size(VECTOR)));
typedef float Unaligned __attribute__((vector_size(VECTOR), aligned(4)));

inline Floats load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Floats v) { *reinterpret_cast<Unaligned*>(p) = v; }
inline Floats all(float x) { return x - Floats{}; }
inline int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The first `count` numbers, and `fill` behind them.
inline Floats load(const float* p, int64_t count, float fill = 0.f) {
#if defined(__AVX512BW__)
  return reinterpret_cast<Floats>(
      _mm512_mask_loadu_ps(reinterpret_cast<__m512>(all(fill)), static_cast<__mmask16>((1u << count) - 1), p));
#else
  Floats result = all(fill);
  for (int64_t i = 0; i < count; i++) result[i] = p[i];
  return result;
#endif
}

// a * b + c, rounded once where the processor does that: left to the compiler, tiles of other sizes could round otherwise.
inline Floats fused(Floats a, Floats b, Floats c) {
#if defined(__AVX512BW__)
  return reinterpret_cast<Floats>(
      _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__AVX2__) && defined(__FMA__)
  return reinterpret_cast<Floats>(
      _mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#elif defined(__FMA__)
  return reinterpret_cast<Floats>(
      _mm_fmadd_ps(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b), reinterpret_cast<__m128>(c)));
#else
  return a * b + c;
#endif
}

// Of `a` and `b`; `b` where one of them is not a number.
inline Floats larger(Floats a, Floats b) {
#if defined(__AVX512BW__)
  return reinterpret_cast<Floats>(_mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#else
  return a > b ? a : b;
#endif
}
// Without signs, as whole numbers, which are in the same order; what is not a number is above all numbers.
inline Ints magnitude(Floats v) { return (Ints)v & 0x7fffffff; }
inline int32_t magnitude(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits & 0x7fffffff;
}
inline Ints larger(Ints a, Ints b) { return a > b ? a : b; }
inline int32_t largest(Ints v) {
  int32_t most = 0;
  for (int i = 0; i < LANES; i++) most = std::max(most, v[i]);
  return most;
}

// What the number one stands for where the largest magnitude is to be `range`; not a number, or infinite, if that is.
inline float unit_of(int32_t most, int64_t range) {
  constexpr float SMALLEST = 1e-30f;
  float number;
  std::memcpy(&number, &most, 4);
  return (number < SMALLEST ? SMALLEST : number) / static_cast<float>(range);
}

// All lanes as one: lanes that are `far` apart first, so that few operations wait for each other.
template <class Both>
inline float reduced(Floats v, Both both) {
  float lanes[LANES];
  store(lanes, v);
  for (int far = LANES / 2; far; far /= 2)
    for (int i = 0; i < far; i++) lanes[i] = both(lanes[i], lanes[i + far]);
  return lanes[0];
}
inline float total(Floats v) {
#if defined(__AVX512BW__)
  return _mm512_reduce_add_ps(reinterpret_cast<__m512>(v));
#else
  return reduced(v, [](float a, float b) { return a + b; });
#endif
}
inline float largest(Floats v) {
#if defined(__AVX512BW__)
  return _mm512_reduce_max_ps(reinterpret_cast<__m512>(v));
#else
  return reduced(v, [](float a, float b) { return std::max(a, b); });
#endif
}

// How exact arithmetic between products is, by the degree of polynomials: nearly as single precision, or less where what
// comes out is rounded anyway.
constexpr int EXACT = 5, TO_16_BITS = 3, TO_8_BITS = 2;

// Relative error 3e-7, or 1e-4; a guess and a step of Newton's take less than a division.
template <int DEGREE>
inline Floats inverse(Floats x) {
#if defined(__AVX512BW__)
  const Floats guess = reinterpret_cast<Floats>(_mm512_rcp14_ps(reinterpret_cast<__m512>(x)));
  return DEGREE == EXACT ? guess * (2.f - x * guess) : guess;
#elif defined(__AVX2__)
  const Floats guess = reinterpret_cast<Floats>(_mm256_rcp_ps(reinterpret_cast<__m256>(x)));
  return guess * (2.f - x * guess);
#else
  return 1.f / x;
#endif
}

// 2^-x by 2^n p(f) with |f| <= 1/2; relative error 3e-6, 8e-5 or 2e-3. Of what is not a number, not a number.
template <int DEGREE>
inline Floats half_to(Floats x) {
#if defined(__AVX512BW__)
  const Floats f = reinterpret_cast<Floats>(
      _mm512_reduce_ps(reinterpret_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  x = x < -126.f ? all(-126.f) : x;
  x = x > 126.f ? all(126.f) : x;
  constexpr float ROUND = 12582912.f;  // 1.5 * 2^23: adding it rounds to a whole number
  const Floats f = x - ((x + ROUND) - ROUND);
#endif
  Floats p;
  if constexpr (DEGREE == EXACT) {
    p = f * -1.3333558e-3f + 9.6181291e-3f;
    p = p * f - 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f - 6.9314718e-1f;
    p = p * f + 1.f;
  } else if constexpr (DEGREE == TO_16_BITS) {
    p = f * -5.5171670e-2f + 2.4261113e-1f;
    p = p * f - 6.9326099e-1f;
    p = p * f + 9.9992807e-1f;
  } else {
    p = f * 2.3842894e-1f - 7.0344803e-1f;
    p = p * f + 1.0004431e+0f;
  }
#if defined(__AVX512BW__)
  return reinterpret_cast<Floats>(_mm512_scalef_ps(reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(f - x)));
#else
  const Ints power = (__builtin_convertvector(f - x, Ints) + 127) << 23;
  return p * (Floats)power;
#endif
}

// What lies between layers is measured in units in which e^x is 2^x.
constexpr float LOG2_E = 1.44269504f;
constexpr double LN_2 = 0.693147180559945;
// What SiLU does not go below in these units, and a little more for errors of the above.
constexpr float LOWEST = 0.279f * LOG2_E;

// -- precisions: how numbers are kept for products, and a tile of a product ---------------------------------------------

// What actions, the last of the numbers that go into a network, add to its first layer.
struct Actions {
  const float* begin = nullptr;
  int64_t row = 0, count = 0;      // from the numbers of one row to those of the next; numbers of a row
  const float* weights = nullptr;  // [count, columns]
  int64_t columns = 0;

  // `to` is `from` plus what those of row `r` add to each of `width` columns.
  void add(int64_t r, const float* from, float* to, int64_t width) const {
    int64_t column = 0;
    for (; column + PANEL * LANES <= width; column += PANEL * LANES) add<PANEL>(r, from + column, to + column, column);
    for (; column < width; column += LANES) add<1>(r, from + column, to + column, column);
  }

 private:
  template <int V>
  void add(int64_t r, const float* from, float* to, int64_t column) const {
    Floats sum[V] = {};
    for (int64_t k = 0; k < count; k++) {
      const Floats x = all(begin[r * row + k]);
      for (int v = 0; v < V; v++) sum[v] = fused(x, load(weights + k * columns + column + v * LANES), sum[v]);
    }
    for (int v = 0; v < V; v++) store(to + v * LANES, load(from + v * LANES) + sum[v]);
  }
};

// `c` is `from` plus the product of rows of `a` with packed columns of `b`, over k numbers each, plus what actions add.
template <class P>
struct Product {
  const typename P::Kept* a;
  int64_t lda;
  const typename P::Weight* b;
  const float* from;
  int64_t ldfrom;  // 0 where every row begins with the same numbers
  float* c;
  int64_t ldc, k;
  const float *row_units = nullptr, *column_units = nullptr;  // what one stands for in a row of `a` and a column of `b`
  const int32_t* offsets = nullptr;                           // what sums of whole numbers begin with, or 0
  Actions actions = {};

  Product below(int64_t rows) const {
    Product result = *this;
    result.a += rows * lda, result.from += rows * ldfrom, result.c += rows * ldc, result.row_units += rows;
    result.actions.begin += rows * actions.row;
    return result;
  }
  Floats start(int64_t row, int64_t column) const { return load(from + row * ldfrom + column); }
  void put(int64_t row, int64_t column, Floats x) const { store(c + row * ldc + column, x); }
};

struct Single {
  static constexpr bool SCALED = false;
  static constexpr int DEGREE = EXACT;
  using Kept = float;
  using Weight = float;
  static constexpr int COLUMNS = LANES, TOGETHER = 1;  // columns of a vector; numbers that are multiplied at once
  static constexpr int64_t DEPTH = 128, LAST_DEPTH = DEPTH;  // of a product that stays in registers, about
  static Weight weight(float x, float) { return x; }
  static void keep(Kept* p, Floats v) { store(p, v); }

  template <int M, int V>
  static void product(const Product<Single>& of) {
    Floats sum[M][V] = {};
    for (int64_t i = 0; i < of.k; i++) {
      Floats w[V];
      for (int v = 0; v < V; v++) w[v] = *reinterpret_cast<const Floats*>(of.b + (i * V + v) * LANES);
      for (int m = 0; m < M; m++) {
        const Floats x = all(of.a[m * of.lda + i]);
        for (int v = 0; v < V; v++) sum[m][v] = fused(x, w[v], sum[m][v]);
      }
    }
    for (int m = 0; m < M; m++)
      for (int v = 0; v < V; v++)
        of.put(m, v * LANES, of.start(m, v * LANES) + sum[m][v]);
  }
};

#if defined(__AVX512FP16__)
// Sums of DEPTH products in half precision, sums of these in single precision.
struct Half {
  static constexpr bool SCALED = false;
  static constexpr int DEGREE = TO_16_BITS;
  using Kept = uint32_t;  // twice the same number: a vector of it is then loaded without a shuffle
  using Weight = _Float16;
  static constexpr int COLUMNS = 32, TOGETHER = 1;
  static constexpr int64_t DEPTH = 64, LAST_DEPTH = 32;  // what no normalisation follows on is summed up more finely
  static Weight weight(float x, float) { return static_cast<_Float16>(x); }
  static void keep(Kept* p, Floats v) {
    const __m512i bits = _mm512_cvtepu16_epi32(
        _mm512_cvtps_ph(reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm512_storeu_si512(p, _mm512_or_si512(bits, _mm512_slli_epi32(bits, 16)));
  }

  template <int M, int V>
  static void product(const Product<Half>& of) {
    __m512h sum[M][V];
    for (int m = 0; m < M; m++)
      for (int v = 0; v < V; v++) sum[m][v] = _mm512_setzero_ph();
    for (int64_t i = 0; i < of.k; i++) {
      __m512h w[V];
      for (int v = 0; v < V; v++) w[v] = _mm512_load_ph(of.b + (i * V + v) * COLUMNS);
      for (int m = 0; m < M; m++) {
        const __m512h x = _mm512_castsi512_ph(_mm512_set1_epi32(static_cast<int>(of.a[m * of.lda + i])));
        for (int v = 0; v < V; v++) sum[m][v] = _mm512_fmadd_ph(x, w[v], sum[m][v]);
      }
    }
    for (int m = 0; m < M; m++)
      for (int v = 0; v < V; v++) {
        const __m512i bits = _mm512_castph_si512(sum[m][v]);
        const __m256i parts[] = {_mm512_castsi512_si256(bits), _mm512_extracti64x4_epi64(bits, 1)};
        for (int part = 0; part < 2; part++) {
          const int64_t column = v * COLUMNS + part * LANES;
          of.put(m, column, of.start(m, column) + reinterpret_cast<Floats>(_mm512_cvtph_ps(parts[part])));
        }
      }
  }
};
#endif

#if defined(__AVX512BF16__)
struct Brain {
  static constexpr bool SCALED = false;
  static constexpr int DEGREE = TO_16_BITS;
  using Kept = uint16_t;
  using Weight = uint16_t;
  static constexpr int COLUMNS = 16, TOGETHER = 2;
  static constexpr int64_t DEPTH = 256, LAST_DEPTH = DEPTH;
  static void keep(Kept* p, Floats v) {
    const __m256bh half = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(v));
    std::memcpy(p, &half, sizeof half);
  }
  static Weight weight(float x, float) {
    Kept rounded[LANES];
    keep(rounded, all(x));
    return rounded[0];
  }

  template <int M, int V>
  static void product(const Product<Brain>& of) {
    __m512 sum[M][V];
    for (int m = 0; m < M; m++)
      for (int v = 0; v < V; v++) sum[m][v] = _mm512_setzero_ps();
    for (int64_t i = 0; i < of.k; i += 2) {
      __m512bh w[V];
      for (int v = 0; v < V; v++) w[v] = reinterpret_cast<__m512bh>(_mm512_load_si512(of.b + (i * V + 2 * v) * COLUMNS));
      for (int m = 0; m < M; m++) {
        int pair;
        std::memcpy(&pair, of.a + m * of.lda + i, 4);
        const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
        for (int v = 0; v < V; v++) sum[m][v] = _mm512_dpbf16_ps(sum[m][v], x, w[v]);
      }
    }
    for (int m = 0; m < M; m++)
      for (int v = 0; v < V; v++)
        of.put(m, v * COLUMNS, of.start(m, v * COLUMNS) + reinterpret_cast<Floats>(sum[m][v]));
  }
};
#endif

// Whole numbers: of the largest of a row RANGE are made, of the largest of a column of weights WEIGHTS. Sums of DEPTH
// products, one and a half times as many at most, are exact in 32 bits.
struct Whole {
  static constexpr bool SCALED = true;
  static constexpr int DEGREE = TO_16_BITS;
  using Kept = int16_t;
  using Weight = int16_t;
  static constexpr int COLUMNS = LANES, TOGETHER = 2;
  static constexpr int64_t DEPTH = 168, LAST_DEPTH = DEPTH, RANGE = 4095, WEIGHTS = 2047;
  static constexpr int64_t STATE_RANGE = RANGE, ZERO = 0;  // of the largest of a state, and what stands for 0 there
  static constexpr float ABOVE = 0.f;                      // what is added to what SiLU gives
  static_assert((DEPTH + DEPTH / 2) * RANGE * WEIGHTS < (int64_t{1} << 31));
  static Weight weight(float x, float per) { return static_cast<Weight>(std::lrint(x * per)); }
  static void keep_state(Kept* p, Floats v, float per) { keep(p, v, per); }
  static void keep(Kept* p, Floats v, float per) {
#if defined(__AVX512BW__)
    const __m256i whole = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(reinterpret_cast<__m512>(v * per)));
#elif defined(__AVX2__)
    const __m256i wide = _mm256_cvtps_epi32(reinterpret_cast<__m256>(v * per));
    const __m128i whole = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
#else
    const __m128i wide = _mm_cvtps_epi32(reinterpret_cast<__m128>(v * per));
    const __m128i both = _mm_packs_epi32(wide, wide);
    const int64_t whole = _mm_cvtsi128_si64(both);
#endif
    std::memcpy(p, &whole, sizeof whole);
  }

  // All numbers of a row.
  static void keep(Kept* to, const float* row, int64_t width, float per) {
    for (int64_t i = 0; i < width; i += LANES) keep(to + i, load(row + i), per);
  }

  // Adds both products of each pair of numbers.
  static Ints add(Ints sum, Ints a, Ints b) {
#if defined(__AVX512BW__) && defined(__AVX512VNNI__)
    return (Ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    return sum + (Ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVXVNNI__)
    return (Ints)_mm256_dpwssd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)b);
#elif defined(__AVX2__)
    return sum + (Ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    return sum + (Ints)_mm_madd_epi16((__m128i)a, (__m128i)b);
#endif
  }

  // Of either kind of whole numbers, as many of which are multiplied at once as are in four bytes.
  template <int M, int V, class P>
  static void product(const Product<P>& of) {
    Ints sum[M][V];
    for (int v = 0; v < V; v++) {
      Ints first{};
      if (of.offsets) std::memcpy(&first, of.offsets + v * LANES, sizeof first);
      for (int m = 0; m < M; m++) sum[m][v] = first;
    }
    for (int64_t i = 0; i < of.k; i += P::TOGETHER) {
      Ints w[V];
      for (int v = 0; v < V; v++) w[v] = *reinterpret_cast<const Ints*>(of.b + (i * V + P::TOGETHER * v) * LANES);
      for (int m = 0; m < M; m++) {
        int32_t together;
        std::memcpy(&together, of.a + m * of.lda + i, 4);
        const Ints x = together - Ints{};
        for (int v = 0; v < V; v++) sum[m][v] = P::add(sum[m][v], x, w[v]);
      }
    }
    for (int m = 0; m < M; m++)
      for (int v = 0; v < V; v++) {
        const Floats units = of.row_units[m] * load(of.column_units + v * LANES);
        of.put(m, v * LANES, fused(__builtin_convertvector(sum[m][v], Floats), units, of.start(m, v * LANES)));
      }
  }
};

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
// Whole numbers of 8 bits, from 0 on: what SiLU gives, above the lowest that it can give, and states above minus their
// largest magnitude.
struct Byte {
  static constexpr bool SCALED = true;
  static constexpr int DEGREE = TO_8_BITS;
  using Kept = uint8_t;
  using Weight = int8_t;
  static constexpr int COLUMNS = LANES, TOGETHER = 4;
  static constexpr int64_t DEPTH = 1 << 15, LAST_DEPTH = DEPTH, RANGE = 255, WEIGHTS = 127;
  static constexpr int64_t STATE_RANGE = 127, ZERO = 128;
  static constexpr float ABOVE = LOWEST;
  static_assert((DEPTH + DEPTH / 2) * RANGE * WEIGHTS < (int64_t{1} << 31));
  static Weight weight(float x, float per) { return static_cast<Weight>(std::lrint(x * per)); }

#if defined(__AVX512BW__)
  static __m512i rounded(Floats v) { return _mm512_cvtps_epi32(reinterpret_cast<__m512>(v)); }
  static void keep_rounded(Kept* to, Floats v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(rounded(v)));
  }
#else
  static void keep_rounded(Kept* to, Floats v) {
    const __m256i wide = _mm256_cvtps_epi32(reinterpret_cast<__m256>(v));
    const __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(half, half));
  }
#endif
  static void keep_state(Kept* to, Floats v, float per) { keep_rounded(to, v * per + static_cast<float>(ZERO)); }

  // All numbers of a row.
  static void keep(Kept* to, const float* row, int64_t width, float per) {
    int64_t i = 0;
#if defined(__AVX512BW__)
    // Packed by quarters of vectors, which come to lie in columns where they should in rows.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (; i + 4 * LANES <= width; i += 4 * LANES) {
      __m512i part[4];
      for (int k = 0; k < 4; k++) part[k] = rounded(load(row + i + k * LANES) * per);
      const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(part[0], part[1]), _mm512_packs_epi32(part[2], part[3]));
      _mm512_storeu_si512(to + i, _mm512_permutexvar_epi32(order, bytes));
    }
#endif
    for (; i < width; i += LANES) keep_rounded(to + i, load(row + i) * per);
  }

  // Adds all products of each four numbers.
  static Ints add(Ints sum, Ints a, Ints b) {
#if defined(__AVX512BW__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#else
    return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)b);
#endif
  }

  template <int M, int V>
  static void product(const Product<Byte>& of) {
    Whole::product<M, V>(of);
  }
};
#endif

// -- products of any size -----------------------------------------------------------------------------------------------

template <class P, int V, int M = ROWS>
void tile(const Product<P>& of, int64_t rows) {
  if constexpr (M > 0) {
    if (rows < M) return tile<P, V, M - 1>(of, rows);
    P::template product<M, V>(of);
    for (int64_t r = 0; r < M && of.actions.count; r++)  // while it is in the nearest cache
      of.actions.add(r, of.c + r * of.ldc, of.c + r * of.ldc, V * P::COLUMNS);
  }
}

template <class P, int V = PANEL>
void panel(const Product<P>& of, int64_t rows, int64_t vectors) {
  if constexpr (V > 0) {
    if (vectors != V) return panel<P, V - 1>(of, rows, vectors);
    for (int64_t row = 0; row < rows; row += ROWS) tile<P, V>(of.below(row), rows - row);
  }
}

// Columns that are computed together: as many vectors each time, so that no single one is left, which takes longest.
template <class P>
int64_t together(int64_t columns) {
  const int64_t vectors = columns / P::COLUMNS, panels = up(vectors, PANEL) / PANEL;
  return up(vectors, panels) / panels * P::COLUMNS;
}

// All columns, some at a time, and no more than about `depth` numbers at once.
template <class P>
void multiply(const Product<P>& of, int64_t columns, int64_t rows, int64_t depth) {
  const int64_t most = together<P>(columns);
  const int64_t parts = std::max<int64_t>(1, (of.k + depth / 2) / depth);
  const int64_t deep = up((of.k + parts - 1) / parts, P::TOGETHER);
  for (int64_t j = 0; j < columns; j += most) {
    const int64_t wide = std::min(most, columns - j);
    for (int64_t i = 0; i < of.k; i += deep) {
      Product<P> part = of;
      part.a += i, part.b += j * of.k + i * wide, part.c += j, part.k = std::min(deep, of.k - i), part.column_units += j;
      if (i) part.from = of.c, part.ldfrom = of.ldc;
      part.from += j, part.actions.weights += j;
      if (i + deep < of.k) part.actions.count = 0;
      if (of.offsets) part.offsets = i ? nullptr : of.offsets + j;
      panel<P>(part, rows, wide / P::COLUMNS);
    }
  }
}

// -- networks -----------------------------------------------------------------------------------------------------------

// Sizes of a network, and how many of the numbers that go into it are actions, the last of them.
struct Shape {
  const int64_t* sizes;
  int64_t depth, actions;

  int64_t state() const { return sizes[0] - actions; }
  int64_t out() const { return sizes[depth]; }
  int64_t widest() const { return *std::max_element(sizes + 1, sizes + depth + 1); }
};

// Where the parts of a layer are among the packed bytes of a network, each aligned: weights, of actions apart; units and
// offsets of columns if SCALED; bias; gain and shift of hidden layers.
template <class P>
struct Layer {
  int64_t in, actions, out, deep, columns, weight, of_actions, units, offsets, bias, gain, shift, end;
  bool first, last;

  Layer(const Shape& shape, int64_t index, int64_t begin)
      : in(index ? shape.sizes[index] : shape.state()), actions(index ? 0 : shape.actions), out(shape.sizes[index + 1]),
        deep(up(in, P::TOGETHER)), columns(up(out, P::COLUMNS)), weight(begin), first(index == 0),
        last(index + 1 == shape.depth) {
    const int64_t numbers = up(columns * 4, ALIGN);
    of_actions = weight + up(deep * columns * static_cast<int64_t>(sizeof(typename P::Weight)), ALIGN);
    units = of_actions + up(actions * columns * 4, ALIGN);
    offsets = units + (P::SCALED ? numbers : 0);
    bias = offsets + (P::SCALED ? numbers : 0);
    gain = bias + numbers;
    shift = gain + numbers;
    end = last ? gain : shift + numbers;
  }
};

template <class P>
int64_t bytes(const Shape& shape) {
  int64_t end = 0;
  for (int64_t i = 0; i < shape.depth; i++) end = Layer<P>(shape, i, end).end;
  return end;
}

// Packs weights `[in, out]`, each multiplied by `per` of its column; vectors side by side, as `panel` reads them.
template <class P>
void pack_weights(const double* weight, int64_t in, int64_t out, const std::vector<float>& per,
                  typename P::Weight* packed) {
  const int64_t columns = up(out, P::COLUMNS), most = together<P>(columns);
  for (int64_t j = 0; j < columns; j += most)
    for (int64_t i = 0; i < up(in, P::TOGETHER); i += P::TOGETHER)
      for (int64_t column = j; column < std::min(j + most, columns); column++)
        for (int64_t k = i; k < i + P::TOGETHER; k++, packed++)
          if (column < out && k < in) *packed = P::weight(static_cast<float>(weight[k * out + column]), per[column]);
}

// Packs weights `[in, out]`, bias, gain and shift of one layer after another.
//
// A normalisation takes the mean over columns away: here it is taken from weights and bias, once.
template <class P>
void pack(const Shape& shape, const float* const* from, unsigned char* to) {
  std::memset(to, 0, bytes<P>(shape));
  double broken = 0;  // or not a number, as all behind a gain or shift that is not finite: rounded, it would be one again
  int64_t end = 0;
  for (int64_t index = 0; index < shape.depth; index++) {
    const Layer<P> layer(shape, index, end);
    const int64_t in = layer.in + layer.actions, out = layer.out;
    std::vector<double> weight(from[0], from[0] + in * out), bias(from[1], from[1] + out);
    from += 2;
    if (!layer.first)
      for (double& w : weight) w *= LN_2;
    if (!layer.last) {
      for (int64_t k = 0; k <= in; k++) {
        double *row = k < in ? &weight[k * out] : bias.data(), mean = 0;
        for (int64_t column = 0; column < out; column++) mean += row[column] / static_cast<double>(out);
        for (int64_t column = 0; column < out; column++) row[column] -= mean;
      }
    }
    std::vector<float> per(out, 1.f);
    for (int64_t k = 0; k < layer.actions; k++)
      for (int64_t column = 0; column < out; column++)
        reinterpret_cast<float*>(to + layer.of_actions)[k * layer.columns + column] =
            static_cast<float>(weight[(layer.in + k) * out + column]);
    if constexpr (P::SCALED)
      for (int64_t column = 0; column < out; column++) {
        int32_t most = 0;
        for (int64_t k = 0; k < layer.in; k++)
          most = std::max(most, magnitude(static_cast<float>(weight[k * out + column])));
        const float unit = unit_of(most, P::WEIGHTS);
        per[column] = 1.f / unit;
        reinterpret_cast<float*>(to + layer.units)[column] = unit;
        int64_t sum = 0;
        for (int64_t k = 0; k < layer.in; k++)
          sum += P::weight(static_cast<float>(weight[k * out + column]), per[column]);
        if (layer.first) reinterpret_cast<int32_t*>(to + layer.offsets)[column] = static_cast<int32_t>(-P::ZERO * sum);
        else bias[column] -= static_cast<double>(sum) * unit * P::ABOVE;
      }
    pack_weights<P>(weight.data(), layer.in, out, per, reinterpret_cast<typename P::Weight*>(to + layer.weight));
    for (int64_t column = 0; column < out; column++)
      reinterpret_cast<float*>(to + layer.bias)[column] = static_cast<float>(bias[column] + broken);
    if (!layer.last) {
      for (const int64_t part : {layer.gain, layer.shift}) {
        for (int64_t column = 0; column < out; column++) {
          reinterpret_cast<float*>(to + part)[column] = (*from)[column] * LOG2_E;
          broken += 0 * (*from)[column];
        }
        from++;
      }
    }
    end = layer.end;
  }
}

// Rows of numbers in the precision of products.
template <class P>
struct Rounded {
  using Kept = typename P::Kept;

  explicit Rounded(int64_t widest)
      : stride(up(widest, PAD)), rows(static_cast<Kept*>(std::aligned_alloc(ALIGN, BLOCK * stride * sizeof(Kept)))) {}
  ~Rounded() { std::free(rows); }
  Rounded(const Rounded&) = delete;

  // A row of any numbers.
  void take(int64_t row, const float* from, int64_t width) {
    Kept* to = rows + row * stride;
    const int64_t whole = width / LANES * LANES;
    if constexpr (P::SCALED) {
      Ints magnitudes{};
      for (int64_t i = 0; i < whole; i += LANES) magnitudes = larger(magnitudes, magnitude(load(from + i)));
      if (whole < width) magnitudes = larger(magnitudes, magnitude(load(from + whole, width - whole)));
      const float unit = unit_of(largest(magnitudes), P::STATE_RANGE);
      units[row] = unit;
      for (int64_t i = 0; i < whole; i += LANES) P::keep_state(to + i, load(from + i), 1.f / unit);
      if (whole < width) P::keep_state(to + whole, load(from + whole, width - whole), 1.f / unit);
    } else {
      for (int64_t i = 0; i < whole; i += LANES) P::keep(to + i, load(from + i));
      if (whole < width) P::keep(to + whole, load(from + whole, width - whole));
    }
  }

  const int64_t stride;
  Kept* const rows;
  float units[BLOCK];  // what the number one stands for in each row, if SCALED
};

// Memory that a block of rows needs on its way through a network; networks can use the same one after the other.
template <class P>
struct Scratch {
  explicit Scratch(int64_t widest)
      : hidden(widest), stride(up(widest, PAD)),
        out(static_cast<float*>(std::aligned_alloc(ALIGN, (BLOCK + 1) * stride * sizeof(float)))) {}
  ~Scratch() { std::free(out); }
  Scratch(const Scratch&) = delete;

  Rounded<P> hidden;
  const int64_t stride;
  float* const out;  // what a network says of each row, and a row more
};

// Of rows with mean 0: standard deviation 1 over `width` numbers, a gain and a shift, SiLU. What pads a row is 0 before,
// and multiplied with weights of 0 behind. A pass over all rows follows another: they do not wait for each other's sums.
template <class P>
void activate(float* rows, int64_t stride, int64_t count, int64_t width, const float* gain, const float* shift,
              Rounded<P>& to, int64_t first) {
  const int64_t padded = up(width, LANES);
  float scales[ROWS];
  for (int64_t r = 0; r < count; r++) {
    const float* row = rows + r * stride;
    Floats squares[4] = {};  // since a sum waits for the one before
    int64_t i = 0;
    for (; i + 4 * LANES <= padded; i += 4 * LANES)
      for (int part = 0; part < 4; part++) {
        const Floats x = load(row + i + part * LANES);
        squares[part] = fused(x, x, squares[part]);
      }
    for (; i < padded; i += LANES) squares[0] = fused(load(row + i), load(row + i), squares[0]);
    const float variance = total(squares[0] + squares[1] + (squares[2] + squares[3])) / static_cast<float>(width);
    scales[r] = 1.f / std::sqrt(variance + 1e-5f);
  }
  Floats highest[ROWS];
  for (int64_t r = 0; r < count; r++) {
    float* row = rows + r * stride;
    highest[r] = all(LOWEST);
    for (int64_t i = 0; i < padded; i += LANES) {
      const Floats x = fused(load(row + i) * scales[r], load(gain + i), load(shift + i));
      const Floats sigmoid = inverse<P::DEGREE>(1.f + half_to<P::DEGREE>(x));
      if constexpr (P::SCALED) {
        const Floats y = fused(x, sigmoid, all(P::ABOVE));
        store(row + i, y);
        highest[r] = larger(highest[r], y);
      } else {
        P::keep(to.rows + (first + r) * to.stride + i, x * sigmoid);
      }
    }
  }
  if constexpr (P::SCALED)
    for (int64_t r = 0; r < count; r++) {
      const float unit = largest(highest[r]) / static_cast<float>(P::RANGE);
      to.units[first + r] = unit;
      P::keep(to.rows + (first + r) * to.stride, rows + r * stride, padded, 1.f / unit);
    }
}

// Numbers [n, steps, width]: where those of a row and step are.
struct Rows {
  const float* begin;
  int64_t row, step = 0;

  const float* at(int64_t r, int64_t t = 0) const { return begin + r * row + t * step; }
};

// One member of a network. What it says of a block of rows is in the memory that it uses, until another uses it.
template <class P>
class Network {
 public:
  Network(const Shape& shape, const unsigned char* packed, Scratch<P>& scratch)
      : shape(shape), stride(scratch.stride), out(scratch.out), packed_(packed), hidden_(scratch.hidden) {}

  const Shape shape;
  const int64_t stride;  // of `out`
  float* const out;      // what it says

  // What it says of states and of actions in them. If there is one state, all rows have it.
  void compute(int64_t rows, const Rounded<P>& states, int64_t several, Rows taken = {}) {
    int64_t end = 0;
    for (int64_t index = 0; index < shape.depth; index++) {
      const Layer<P> layer(shape, index, end);
      const Rounded<P>& in = index ? hidden_ : states;
      const Actions actions{taken.begin, taken.row, layer.actions, floats(layer.of_actions), layer.columns};
      const auto product = [&](int64_t count, float* to, const Actions& with) {
        multiply<P>({in.rows, in.stride, reinterpret_cast<const typename P::Weight*>(packed_ + layer.weight),
                     floats(layer.bias), 0, to, stride, layer.deep, in.units, floats(layer.units),
                     P::SCALED && !index ? reinterpret_cast<const int32_t*>(packed_ + layer.offsets) : nullptr, with},
                    layer.columns, count, layer.last ? P::LAST_DEPTH : P::DEPTH);
      };
      if (index || several == rows) {
        product(rows, out, actions);
      } else {
        float* shared = out + BLOCK * stride;
        product(1, shared, {});
        for (int64_t r = 0; r < rows; r++) actions.add(r, shared, out + r * stride, layer.columns);
      }
      for (int64_t r = 0; r < rows && !layer.last; r += ROWS)
        activate<P>(out + r * stride, stride, std::min<int64_t>(ROWS, rows - r), layer.out, floats(layer.gain),
                    floats(layer.shift), hidden_, r);
      end = layer.end;
    }
  }

 private:
  const float* floats(int64_t at) const { return reinterpret_cast<const float*>(packed_ + at); }

  const unsigned char* packed_;
  Rounded<P>& hidden_;
};

// `out [n, out]` of `x [n, in]`.
template <class P>
void apply(Network<P>& net, int64_t n, const Rows& x, float* out) {
  const int64_t state = net.shape.state(), width = net.shape.out();
  Rounded<P> states(state);
  for (int64_t first = 0; first < n; first += BLOCK) {
    const int64_t rows = std::min(BLOCK, n - first);
    for (int64_t r = 0; r < rows; r++) states.take(r, x.at(first + r), state);
    net.compute(rows, states, rows, {x.at(first) + state, x.row});
    for (int64_t r = 0; r < rows; r++) std::memcpy(out + (first + r) * width, net.out + r * net.stride, width * 4);
  }
}

inline void add(const float* a, const float* b, int64_t width, float* to) {
  for (int64_t i = 0; i < width; i++) to[i] = a[i] + b[i];
}

// `out [n, steps, Z]`: from z on, `z += net(z, action)` with one action after the other.
template <class P>
void roll_out(Network<P>& net, int64_t n, int64_t steps, const Rows& z, const Rows& actions, float* out) {
  const int64_t width = net.shape.out();
  Rounded<P> states(width);
  for (int64_t first = 0; first < n; first += BLOCK) {
    const int64_t rows = std::min(BLOCK, n - first);
    for (int64_t t = 0; t < steps; t++) {
      const Rows ahead{out + (first * steps + t) * width, steps * width};
      const Rows now = t ? Rows{ahead.begin - width, ahead.row} : Rows{z.at(first), z.row};
      for (int64_t r = 0; r < rows; r++) states.take(r, now.at(r), width);
      net.compute(rows, states, rows, {actions.at(first, t), actions.row});
      for (int64_t r = 0; r < rows; r++)
        add(now.at(r), net.out + r * net.stride, width, const_cast<float*>(ahead.at(r)));
    }
  }
}

// The expected numbers of distributions over bins that are even in symlog, by their logits; see control.TwoHot.
void expected(const float* logits, int64_t stride, int64_t rows, int64_t bins, float limit, float* out, int64_t step) {
  const int64_t whole = bins / LANES * LANES;
  const float bin = 2 * limit / static_cast<float>(bins - 1);
  constexpr float NEVER = -1e30f;
  float symlog[BLOCK + LANES] = {};
  for (int64_t r = 0; r < rows; r++) {
    const float* row = logits + r * stride;
    Floats highest = load(row + whole, bins - whole, NEVER);
    for (int64_t i = 0; i < whole; i += LANES) highest = larger(load(row + i), highest);
    const float most = largest(highest);
    Floats sum{}, weighted{}, index;
    for (int i = 0; i < LANES; i++) index[i] = static_cast<float>(i);
    const auto take = [&](Floats x) {
      const Floats likely = half_to<EXACT>((most - x) * LOG2_E);
      sum += likely;
      weighted += likely * index;
      index += static_cast<float>(LANES);
    };
    for (int64_t i = 0; i < whole; i += LANES) take(load(row + i));
    if (whole < bins) take(load(row + whole, bins - whole, NEVER));
    symlog[r] = total(weighted) / total(sum) * bin - limit;
  }
  for (int64_t r = 0; r < rows; r += LANES) {
    const Floats x = load(symlog + r);
    const Floats size = half_to<EXACT>((Floats)magnitude(x) * -LOG2_E) - 1.f, number = x < 0.f ? -size : size;
    for (int64_t i = r; i < std::min(r + LANES, rows); i++) out[i * step] = number[i - r];
  }
}

// `out [n]`: expected numbers of states and actions.
template <class P>
void expect(Network<P>& net, int64_t n, const Rows& z, const Rows& actions, float limit, float* out) {
  Rounded<P> states(net.shape.state());
  for (int64_t first = 0; first < n; first += BLOCK) {
    const int64_t rows = std::min(BLOCK, n - first);
    for (int64_t r = 0; r < rows; r++) states.take(r, z.at(first + r), net.shape.state());
    net.compute(rows, states, rows, {actions.at(first), actions.row});
    expected(net.out, net.stride, rows, net.shape.out(), limit, out + first, 1);
  }
}

// -- threads ------------------------------------------------------------------------------------------------------------

// Threads that help whoever calls, one caller at a time. One that has helped looks out for more for half a millisecond
// before it sleeps: that is less than passes between two iterations of a search, and waking up takes as long as a tenth
// of an iteration. In a process that was forked there are none, and callers work alone.
class Helpers {
 public:
  static Helpers& of_this_process() {
    static Helpers* helpers = new Helpers;  // never ended: threads may still look at them when the process ends
    return *helpers;
  }

  // Has `count` threads do the same work at once, this one among them, which does it to the end whether others come or not.
  void share(int64_t count, const std::function<void()>& work) {
    if (count < 2 || getpid() != process_ || !calling_.try_lock()) return work();
    try {
      for (; threads_ < count - 1; threads_++) std::thread([this] { help(); }).detach();
    } catch (const std::system_error&) {
      // No more threads to be had: those that there are will do.
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work, wanted_ = count - 1, control_ = _mm_getcsr();
      jobs_.fetch_add(1, std::memory_order_release);
    }
    awake_.notify_all();
    work();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      wanted_ = 0;
    }
    for (int spins = 0; busy_.load(std::memory_order_acquire); spins++)
      if (spins < 1000) _mm_pause();
      else std::this_thread::yield();
    calling_.unlock();
  }

 private:
  void help() {
    for (uint64_t seen = 0;;) {
      const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(500);
      while (jobs_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < until) _mm_pause();
      const std::function<void()>* work = nullptr;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        awake_.wait(lock, [&] { return jobs_.load(std::memory_order_relaxed) != seen; });
        seen = jobs_.load(std::memory_order_relaxed);
        if (wanted_ > 0) wanted_--, busy_++, work = work_;
        _mm_setcsr(control_);  // what is done with denormal numbers
      }
      if (work) {
        (*work)();
        busy_.fetch_sub(1, std::memory_order_release);
      }
    }
  }

  const pid_t process_ = getpid();
  std::mutex calling_, mutex_;
  std::condition_variable awake_;
  std::atomic<uint64_t> jobs_{0};
  std::atomic<int64_t> busy_{0};
  int64_t threads_ = 0, wanted_ = 0;
  const std::function<void()>* work_ = nullptr;
  unsigned control_ = 0;
};

// Rows that threads share: ever fewer at a time toward the end, so that all are done at about the same time.
class Shares {
 public:
  Shares(int64_t n, int64_t threads) : n_(n), threads_(threads) {}

  // The first of the next rows, and how many; none when there are no more.
  int64_t take(int64_t& first) {
    first = next_.load();
    for (;;) {
      if (first >= n_) return 0;
      const int64_t fair = up((n_ - first) / (2 * threads_), ROWS);
      const int64_t rows = std::min(n_ - first, std::clamp<int64_t>(fair, ROWS, BLOCK));
      if (next_.compare_exchange_weak(first, first + rows)) return rows;
    }
  }

 private:
  const int64_t n_, threads_;
  std::atomic<int64_t> next_{0};
};

// The networks of control by reward, packed one after the other: dynamics, reward, policy, and the members of the value.
template <class P>
struct Nets {
  Nets(const std::array<Shape, 4>& shapes, int64_t members, const unsigned char* packed)
      : scratch(std::max({shapes[0].widest(), shapes[1].widest(), shapes[2].widest(), shapes[3].widest()})),
        dynamics(shapes[0], packed, scratch), reward(shapes[1], packed += bytes<P>(shapes[0]), scratch),
        policy(shapes[2], packed += bytes<P>(shapes[1]), scratch), width(shapes[0].out()), rounded(width),
        states_(BLOCK * width) {
    packed += bytes<P>(shapes[2]);
    for (int64_t k = 0; k < members; k++) value.emplace_back(shapes[3], packed + k * bytes<P>(shapes[3]), scratch);
  }

  // A block begins in states that every `each` rows have together.
  void begin(int64_t first, int64_t rows, int64_t each, const Rows& z) {
    for (int64_t r = 0; r < rows; r++) std::memcpy(&states_[r * width], z.at((first + r) / each), width * sizeof(float));
  }
  // Makes `rounded` of the first states.
  void look(int64_t rows) {
    for (int64_t r = 0; r < rows; r++) rounded.take(r, &states_[r * width], width);
  }
  // Goes on to where actions lead from what was looked at.
  void advance(int64_t rows, int64_t several, const Rows& taken) {
    dynamics.compute(rows, rounded, several, taken);
    for (int64_t r = 0; r < rows; r++)
      add(&states_[r * width], dynamics.out + r * dynamics.stride, width, &states_[r * width]);
  }

  Scratch<P> scratch;
  Network<P> dynamics, reward, policy;
  std::vector<Network<P>> value;
  const int64_t width;
  Rounded<P> rounded;

 private:
  std::vector<float> states_;
};

// Their shapes, by sizes of one after the other, `depth + 1` of each.
std::array<Shape, 4> shapes_of(const int64_t* sizes, int64_t depth, int64_t actions) {
  const int64_t next = depth + 1;
  return {{{sizes, depth, actions}, {sizes + next, depth, actions}, {sizes + 2 * next, depth, 0},
           {sizes + 3 * next, depth, actions}}};
}

// Actions `[n, steps, A]` that the policy takes with noise, from the state of every `each` rows on.
template <class P>
void propose(Nets<P>& nets, int64_t n, int64_t steps, int64_t each, const Rows& z, const Rows& noise, float low,
             float high, float* out) {
  const int64_t dim = nets.dynamics.shape.actions;
  for (int64_t first = 0; first < n; first += BLOCK) {
    const int64_t rows = std::min(BLOCK, n - first);
    nets.begin(first, rows, each, z);
    for (int64_t t = 0; t < steps; t++) {
      const Rows taken{out + (first * steps + t) * dim, steps * dim};
      nets.look(rows);
      nets.policy.compute(rows, nets.rounded, rows);
      for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < dim; i++) {
          const float* said = nets.policy.out + r * nets.policy.stride + i;
          const float deviation = std::exp(low + (high - low) / 2 * (std::tanh(said[dim]) + 1));
          const_cast<float*>(taken.at(r))[i] = std::tanh(said[0] + noise.at(first + r, t)[i] * deviation);
        }
      if (t + 1 == steps) break;
      nets.advance(rows, rows, taken);
    }
  }
}

// What candidates are worth: `rewards [n, steps]` on the way, and `values [members, n]` of going on by the policy from
// where they lead. The same as `roll_out`, `expect` and `apply`, without a latent that leaves the cache.
template <class P>
void judge(Nets<P>& nets, Shares& shares, int64_t n, int64_t steps, int64_t each, const Rows& z,
           const Rows& actions, float limit, float* rewards, float* values) {
  Network<P>&reward = nets.reward, &policy = nets.policy;
  const int64_t dim = nets.dynamics.shape.actions;
  std::vector<float> chosen(BLOCK * dim);
  for (int64_t first, rows; (rows = shares.take(first)) > 0;) {
    nets.begin(first, rows, each, z);
    for (int64_t t = 0; t < steps; t++) {
      const int64_t several = t || first / each < (first + rows - 1) / each ? rows : 1;
      nets.look(several);
      const Rows now{actions.at(first, t), actions.row};
      reward.compute(rows, nets.rounded, several, now);
      expected(reward.out, reward.stride, rows, reward.shape.out(), limit, rewards + first * steps + t, steps);
      nets.advance(rows, several, now);
    }
    nets.look(rows);
    policy.compute(rows, nets.rounded, rows);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t i = 0; i < dim; i++) chosen[r * dim + i] = std::tanh(policy.out[r * policy.stride + i]);
    for (size_t k = 0; k < nets.value.size(); k++) {
      Network<P>& value = nets.value[k];
      value.compute(rows, nets.rounded, rows, {chosen.data(), dim});
      expected(value.out, value.stride, rows, value.shape.out(), limit, values + k * n + first, 1);
    }
  }
}

// -- what is called from Python -----------------------------------------------------------------------------------------

template <class Work>
bool with_precision(int64_t precision, Work work) {
  switch (precision) {
    case 0: work(Single{}); return true;
#if defined(__AVX512FP16__)
    case 1: work(Half{}); return true;
#endif
#if defined(__AVX512BF16__)
    case 2: work(Brain{}); return true;
#endif
    case 3: work(Whole{}); return true;
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
    case 4: work(Byte{}); return true;
#endif
    default: return false;
  }
}

template <class Work>
void with_network(int64_t precision, const Shape& shape, const unsigned char* packed, Work work) {
  with_precision(precision, [&](auto p) {
    Scratch<decltype(p)> scratch(shape.widest());
    Network<decltype(p)> net(shape, packed, scratch);
    work(net);
  });
}

}  // namespace

extern "C" {

// Bytes of a packed network; 0 for a precision that this processor does not compute in.
int64_t forethought_bytes(int64_t precision, const int64_t* sizes, int64_t depth, int64_t actions) {
  int64_t result = 0;
  with_precision(precision, [&](auto p) { result = bytes<decltype(p)>({sizes, depth, actions}); });
  return result;
}

void forethought_pack(int64_t precision, const int64_t* sizes, int64_t depth, int64_t actions, const float* const* from,
                      unsigned char* to) {
  with_precision(precision, [&](auto p) { pack<decltype(p)>({sizes, depth, actions}, from, to); });
}

void forethought_apply(int64_t precision, const int64_t* sizes, int64_t depth, int64_t actions,
                       const unsigned char* packed, int64_t n, const float* x, int64_t row, float* out) {
  with_network(precision, {sizes, depth, actions}, packed, [&](auto& net) { apply(net, n, {x, row}, out); });
}

void forethought_roll_out(int64_t precision, const int64_t* sizes, int64_t depth, int64_t actions,
                          const unsigned char* packed, int64_t n, int64_t steps, const float* z, int64_t row,
                          const float* taken, int64_t taken_row, int64_t taken_step, float* out) {
  with_network(precision, {sizes, depth, actions}, packed, [&](auto& net) { roll_out(net, n, steps, {z, row}, {taken, taken_row, taken_step}, out); });
}

void forethought_expect(int64_t precision, const int64_t* sizes, int64_t depth, int64_t actions,
                        const unsigned char* packed, int64_t n, const float* z, int64_t row, const float* taken,
                        int64_t taken_row, float limit, float* out) {
  with_network(precision, {sizes, depth, actions}, packed, [&](auto& net) { expect(net, n, {z, row}, {taken, taken_row}, limit, out); });
}

void forethought_judge(int64_t precision, const int64_t* sizes, int64_t depth, int64_t actions,
                       const unsigned char* packed, int64_t members, int64_t threads, int64_t n, int64_t steps,
                       int64_t each, const float* z, int64_t row, const float* taken, int64_t taken_row,
                       int64_t taken_step, float limit, float* rewards, float* values) {
  const auto shapes = shapes_of(sizes, depth, actions);
  with_precision(precision, [&](auto p) {
    Shares shares(n, threads);
    Helpers::of_this_process().share(threads, [&] {
      Nets<decltype(p)> nets(shapes, members, packed);
      judge(nets, shares, n, steps, each, {z, row}, {taken, taken_row, taken_step}, limit, rewards, values);
    });
  });
}

void forethought_propose(int64_t precision, const int64_t* sizes, int64_t depth, int64_t actions,
                         const unsigned char* packed, int64_t n, int64_t steps, int64_t each, const float* z,
                         int64_t row, const float* noise, float low, float high, float* out) {
  with_precision(precision, [&](auto p) {
    Nets<decltype(p)> nets(shapes_of(sizes, depth, actions), 0, packed);
    propose(nets, n, steps, each, {z, row}, {noise, steps * actions, actions}, low, high, out);
  });
}
}
