// Multi-layer perceptrons with layer normalisation and SiLU between their layers, all layers in one call.
//
// A block of rows goes through the whole network while it is in the cache: products, then normalisation, activation and
// rounding in passes over what was just computed. Every row is computed alike, whatever rows there are beside it: how
// candidates are divided among calls and threads changes no number. Arithmetic between the products is in single
// precision throughout; weights and what is multiplied with them are in the precision of the call: single or half
// precision, or whole numbers of 16 bits, of which a processor multiplies up to twice as many.
//
// Compiled by fused.py with -march=native; one thread per call, no state.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include <immintrin.h>

#if defined(__AVX512BW__)
constexpr int VECTOR = 64, PANEL = 4;  // bytes of a vector; vectors side by side in a tile of the output
#elif defined(__AVX2__)
constexpr int VECTOR = 32, PANEL = 2;
#else
constexpr int VECTOR = 16, PANEL = 2;
#endif
constexpr int LANES = VECTOR / 4;
constexpr int ROWS = 6;                // of a tile: with PANEL vectors each they fill the registers
constexpr int64_t BLOCK = 8 * ROWS;    // rows that go through the network together
constexpr int64_t ALIGN = 64, PAD = 32;  // numbers that every row of scratch memory is a multiple of

typedef float Floats __attribute__((vector_size(VECTOR)));
typedef int32_t Ints __attribute__((vector_size(VECTOR)));
typedef float Unaligned __attribute__((vector_size(VECTOR), aligned(4)));

static inline Floats load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
static inline void store(float* p, Floats v) { *reinterpret_cast<Unaligned*>(p) = v; }
static inline Floats all(float x) { return x - Floats{}; }
static inline int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// a * b + c, rounded once where the processor does that: left to the compiler, tiles of other sizes could round otherwise.
static inline Floats fused(Floats a, Floats b, Floats c) {
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

static inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
// Without signs, as whole numbers, which are in the same order; what is not a number is above all numbers.
static inline Ints magnitude(Floats v) { return (Ints)v & 0x7fffffff; }
static inline int32_t magnitude(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits & 0x7fffffff;
}
static inline Ints larger(Ints a, Ints b) { return a > b ? a : b; }
static inline int32_t largest(Ints v) {
  int32_t most = 0;
  for (int i = 0; i < LANES; i++) most = std::max(most, v[i]);
  return most;
}

// What the number one stands for where the largest magnitude is to be `range`; not a number, or infinite, if that is.
static inline float unit_of(int32_t most, int64_t range) {
  constexpr float SMALLEST = 1e-30f;
  float number;
  std::memcpy(&number, &most, 4);
  return (number < SMALLEST ? SMALLEST : number) / static_cast<float>(range);
}

// All lanes as one: lanes that are `far` apart first, so that few operations wait for each other.
template <class Both>
static inline float reduced(Floats v, Both both) {
  float lanes[LANES];
  store(lanes, v);
  for (int far = LANES / 2; far; far /= 2)
    for (int i = 0; i < far; i++) lanes[i] = both(lanes[i], lanes[i + far]);
  return lanes[0];
}
static inline float total(Floats v) {
#if defined(__AVX512BW__)
  return _mm512_reduce_add_ps(reinterpret_cast<__m512>(v));
#else
  return reduced(v, [](float a, float b) { return a + b; });
#endif
}
static inline float largest(Floats v) {
#if defined(__AVX512BW__)
  return _mm512_reduce_max_ps(reinterpret_cast<__m512>(v));
#else
  return reduced(v, [](float a, float b) { return std::max(a, b); });
#endif
}

// Relative error 3e-7, or 1e-4 where it is rounded anyway; a guess and a step of Newton's take less than a division.
template <bool EXACT>
static inline Floats inverse(Floats x) {
#if defined(__AVX512BW__)
  const Floats guess = reinterpret_cast<Floats>(_mm512_rcp14_ps(reinterpret_cast<__m512>(x)));
  return EXACT ? guess * (2.f - x * guess) : guess;
#elif defined(__AVX2__)
  const Floats guess = reinterpret_cast<Floats>(_mm256_rcp_ps(reinterpret_cast<__m256>(x)));
  return guess * (2.f - x * guess);
#else
  return 1.f / x;
#endif
}

// Exponential by 2^n p(f) with |f| <= 1/2; relative error 3e-6, or 1e-4. Of what is not a number, not a number.
template <bool EXACT>
static inline Floats exponential(Floats x) {
  x = x < -87.f ? all(-87.f) : x;
  x = x > 87.f ? all(87.f) : x;
  constexpr float ROUND = 12582912.f;  // 1.5 * 2^23: adding it rounds to a whole number
  const Floats t = x * 1.442695041f, whole = (t + ROUND) - ROUND, f = t - whole;
  Floats p;
  if (EXACT) {
    p = f * 1.3333558e-3f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.f;
  } else {
    p = f * 5.5838283e-2f + 2.4263948e-1f;
    p = p * f + 6.9313673e-1f;
    p = p * f + 9.9992456e-1f;
  }
  const Ints power = (__builtin_convertvector(whole, Ints) + 127) << 23;
  return p * (Floats)power;
}

// -- precisions: how numbers are kept for products, and a tile of a product ---------------------------------------------

// Adds the product of rows of `a` with packed columns of `b`, over k numbers each, to `c`.
template <class P>
struct Product {
  const typename P::Kept* a;
  int64_t lda;
  const typename P::Weight* b;
  float* c;
  int64_t ldc, k;
  const float *row_units, *column_units;  // what the number one stands for in a row of `a` and a column of `b`, if SCALED

  Product below(int64_t rows) const {
    return {a + rows * lda, lda, b, c + rows * ldc, ldc, k, row_units + rows, column_units};
  }
};

struct Single {
  static constexpr bool EXACT = true, SCALED = false;
  using Kept = float;
  using Weight = float;
  static constexpr int COLUMNS = LANES, TOGETHER = 1;  // columns of a vector; numbers that are multiplied at once
  static constexpr int64_t DEPTH = 128, LAST_DEPTH = DEPTH;  // of a product that stays in registers, about
  static Weight weight(float x, float) { return x; }
  static void keep(Kept* p, Floats v, float) { store(p, v); }

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
      for (int v = 0; v < V; v++) {
        float* p = of.c + m * of.ldc + v * LANES;
        store(p, load(p) + sum[m][v]);
      }
  }
};

#if defined(__AVX512FP16__)
// Sums of DEPTH products in half precision, sums of these in single precision.
struct Half {
  static constexpr bool EXACT = false, SCALED = false;
  using Kept = uint32_t;  // twice the same number: a vector of it is then loaded without a shuffle
  using Weight = _Float16;
  static constexpr int COLUMNS = 32, TOGETHER = 1;
  static constexpr int64_t DEPTH = 64, LAST_DEPTH = 32;  // what no normalisation follows on is summed up more finely
  static Weight weight(float x, float) { return static_cast<_Float16>(x); }
  static void keep(Kept* p, Floats v, float) {
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
        float* p = of.c + m * of.ldc + v * COLUMNS;
        store(p, load(p) + reinterpret_cast<Floats>(_mm512_cvtph_ps(_mm512_castsi512_si256(bits))));
        p += LANES;
        store(p, load(p) + reinterpret_cast<Floats>(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(bits, 1))));
      }
  }
};
#endif

#if defined(__AVX512BF16__)
struct Brain {
  static constexpr bool EXACT = false, SCALED = false;
  using Kept = uint16_t;
  using Weight = uint16_t;
  static constexpr int COLUMNS = 16, TOGETHER = 2;
  static constexpr int64_t DEPTH = 256, LAST_DEPTH = DEPTH;
  static void keep(Kept* p, Floats v, float) {
    const __m256bh half = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(v));
    std::memcpy(p, &half, sizeof half);
  }
  static Weight weight(float x, float) {
    Kept rounded[LANES];
    keep(rounded, all(x), 1);
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
      for (int v = 0; v < V; v++) {
        float* p = of.c + m * of.ldc + v * COLUMNS;
        store(p, load(p) + reinterpret_cast<Floats>(sum[m][v]));
      }
  }
};
#endif

// Whole numbers: of the largest of a row RANGE are made, of the largest of a column of weights WEIGHTS. Sums of DEPTH
// products, one and a half times as many at most, are exact in 32 bits.
struct Whole {
  static constexpr bool EXACT = false, SCALED = true;
  using Kept = int16_t;
  using Weight = int16_t;
  static constexpr int COLUMNS = LANES, TOGETHER = 2;
  static constexpr int64_t DEPTH = 168, LAST_DEPTH = DEPTH, RANGE = 4095, WEIGHTS = 2047;
  static_assert((DEPTH + DEPTH / 2) * RANGE * WEIGHTS < (int64_t{1} << 31));
  static Weight weight(float x, float per) { return static_cast<Weight>(std::lrint(x * per)); }
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

  template <int M, int V>
  static void product(const Product<Whole>& of) {
    Ints sum[M][V] = {};
    for (int64_t i = 0; i < of.k; i += 2) {
      Ints w[V];
      for (int v = 0; v < V; v++) w[v] = *reinterpret_cast<const Ints*>(of.b + (i * V + 2 * v) * LANES);
      for (int m = 0; m < M; m++) {
        int32_t pair;
        std::memcpy(&pair, of.a + m * of.lda + i, 4);
        const Ints x = pair - Ints{};
        for (int v = 0; v < V; v++) sum[m][v] = add(sum[m][v], x, w[v]);
      }
    }
    for (int m = 0; m < M; m++)
      for (int v = 0; v < V; v++) {
        float* p = of.c + m * of.ldc + v * LANES;
        const Floats units = of.row_units[m] * load(of.column_units + v * LANES);
        store(p, fused(__builtin_convertvector(sum[m][v], Floats), units, load(p)));
      }
  }
};

// -- products of any size -----------------------------------------------------------------------------------------------

template <class P, int V, int M = ROWS>
static void rest_of_rows(const Product<P>& of, int64_t rows) {
  if constexpr (M > 0) {
    if (rows == M)
      P::template product<M, V>(of);
    else
      rest_of_rows<P, V, M - 1>(of, rows);
  }
}

template <class P, int V = PANEL>
static void panel(const Product<P>& of, int64_t rows, int64_t vectors) {
  if constexpr (V > 0) {
    if (vectors != V) return panel<P, V - 1>(of, rows, vectors);
    int64_t row = 0;
    for (; row + ROWS <= rows; row += ROWS) P::template product<ROWS, V>(of.below(row));
    rest_of_rows<P, V>(of.below(row), rows - row);
  }
}

// All columns, some at a time, and no more than about `depth` numbers at once.
template <class P>
static void multiply(const Product<P>& of, int64_t columns, int64_t rows, int64_t depth) {
  constexpr int64_t WIDE = PANEL * P::COLUMNS;
  const int64_t parts = std::max<int64_t>(1, (of.k + depth / 2) / depth);
  const int64_t deep = up((of.k + parts - 1) / parts, P::TOGETHER);
  for (int64_t j = 0; j < columns; j += WIDE) {
    const int64_t wide = std::min(WIDE, columns - j);
    for (int64_t i = 0; i < of.k; i += deep)
      panel<P>({of.a + i, of.lda, of.b + j * of.k + i * wide, of.c + j, of.ldc, std::min(deep, of.k - i), of.row_units,
                of.column_units + j},
               rows, wide / P::COLUMNS);
  }
}

// -- networks -----------------------------------------------------------------------------------------------------------

// Where the parts of a layer are among the packed bytes of a network, each aligned; gain and shift of hidden layers only.
template <class P>
struct Layer {
  int64_t in, out, deep, columns, weight, units, bias, gain, shift, end;

  Layer(const int64_t* sizes, int64_t depth, int64_t index, int64_t begin)
      : in(sizes[index]), out(sizes[index + 1]), deep(up(in, P::TOGETHER)), columns(up(out, P::COLUMNS)), weight(begin) {
    const int64_t numbers = up(columns * 4, ALIGN);
    units = weight + up(deep * columns * static_cast<int64_t>(sizeof(typename P::Weight)), ALIGN);
    bias = units + (P::SCALED ? numbers : 0);
    gain = bias + numbers;
    shift = gain + numbers;
    end = index + 1 < depth ? shift + numbers : gain;
  }
};

template <class P>
static int64_t bytes(const int64_t* sizes, int64_t depth) {
  int64_t end = 0;
  for (int64_t i = 0; i < depth; i++) end = Layer<P>(sizes, depth, i, end).end;
  return end;
}

// Packs weights `[in, out]`, bias, gain and shift of one layer after another; vectors side by side, as `panel` reads them.
template <class P>
static void pack(const int64_t* sizes, int64_t depth, const float* const* from, unsigned char* to) {
  std::memset(to, 0, bytes<P>(sizes, depth));
  int64_t end = 0;
  for (int64_t index = 0; index < depth; index++) {
    const Layer<P> layer(sizes, depth, index, end);
    const float* weight = *from++;
    auto* packed = reinterpret_cast<typename P::Weight*>(to + layer.weight);
    std::vector<float> per(layer.out, 1.f);
    if constexpr (P::SCALED)
      for (int64_t column = 0; column < layer.out; column++) {
        int32_t most = 0;
        for (int64_t k = 0; k < layer.in; k++) most = std::max(most, magnitude(weight[k * layer.out + column]));
        const float unit = unit_of(most, P::WEIGHTS);
        per[column] = 1.f / unit;
        reinterpret_cast<float*>(to + layer.units)[column] = unit;
      }
    constexpr int64_t WIDE = PANEL * P::COLUMNS;
    for (int64_t j = 0; j < layer.columns; j += WIDE)
      for (int64_t i = 0; i < layer.deep; i += P::TOGETHER)
        for (int64_t column = j; column < std::min(j + WIDE, layer.columns); column++)
          for (int64_t k = i; k < i + P::TOGETHER; k++, packed++)
            if (column < layer.out && k < layer.in) *packed = P::weight(weight[k * layer.out + column], per[column]);
    for (const int64_t part : {layer.bias, layer.gain, layer.shift})
      if (part < layer.end) std::memcpy(to + part, *from++, layer.out * 4);
    end = layer.end;
  }
}

// Mean 0 and standard deviation 1 over `width` numbers of a row, a gain and a shift, SiLU. What pads a row stays 0.
// Returns what the number one stands for, if SCALED; these numbers are then left in the row, too.
template <class P>
static float activate(float* row, int64_t width, const float* gain, const float* shift, typename P::Kept* to) {
  // Both sums in one pass, of what lies above the first number: many times smaller than a mean far from 0 would be.
  // Four of each, since an addition waits for the one before.
  const int64_t whole = width / LANES * LANES, padded = up(width, LANES);
  const float first = row[0];
  Floats sum[4] = {}, squares[4] = {};
  int64_t i = 0;
  for (; i + 4 * LANES <= whole; i += 4 * LANES)
    for (int part = 0; part < 4; part++) {
      const Floats above = load(row + i + part * LANES) - first;
      sum[part] += above;
      squares[part] += above * above;
    }
  for (; i < whole; i += LANES) {
    const Floats above = load(row + i) - first;
    sum[0] += above;
    squares[0] += above * above;
  }
  float one = total(sum[0] + sum[1] + (sum[2] + sum[3])), two = total(squares[0] + squares[1] + (squares[2] + squares[3]));
  for (; i < width; i++) {
    one += row[i] - first;
    two += (row[i] - first) * (row[i] - first);
  }
  const float count = static_cast<float>(width), above = one / count, mean = first + above;
  const float scale = 1.f / std::sqrt(std::max(two / count - above * above, 0.f) + 1e-5f);
  Ints magnitudes{};
  for (i = 0; i < padded; i += LANES) {
    const Floats x = (load(row + i) - mean) * (scale * load(gain + i)) + load(shift + i);
    const Floats y = x * inverse<P::EXACT>(1.f + exponential<P::EXACT>(-x));
    if constexpr (P::SCALED) {
      store(row + i, y);
      magnitudes = larger(magnitudes, magnitude(y));
    } else {
      P::keep(to + i, y, 1.f);
    }
  }
  float unit = 1.f;
  if constexpr (P::SCALED) {
    unit = unit_of(largest(magnitudes), P::RANGE);
    for (i = 0; i < padded; i += LANES) P::keep(to + i, load(row + i), 1.f / unit);
  }
  return unit;
}

// One member of a network, and the scratch memory for a block of rows.
template <class P>
class Network {
 public:
  using Kept = typename P::Kept;

  Network(const int64_t* sizes, int64_t depth, const unsigned char* packed)
      : sizes_(sizes), depth_(depth), packed_(packed) {
    // Vectors that begin behind one another end behind the last number.
    const int64_t widest = up(*std::max_element(sizes, sizes + depth + 1) + LANES - 1, PAD);
    stride = widest;
    memory_.reset(static_cast<unsigned char*>(
        ::operator new(BLOCK * widest * (sizeof(Kept) + sizeof(float)), std::align_val_t(ALIGN))));
    in_ = reinterpret_cast<Kept*>(memory_.get());
    out = reinterpret_cast<float*>(memory_.get() + BLOCK * widest * sizeof(Kept));
    std::memset(in_, 0, BLOCK * widest * sizeof(Kept));
  }

  int64_t width() const { return sizes_[depth_]; }

  int64_t stride;  // of `out`
  float* out;      // what the network says of each row of the block

  // Takes numbers as the input of a row: `first` of them, and behind them those at `more`, if there are more.
  void take(int64_t row, const float* from, int64_t first, const float* more = nullptr) {
    const int64_t second = sizes_[0] - first;
    float unit = 1.f;
    if constexpr (P::SCALED) {
      Ints magnitudes{};
      each(from, first, [&](int64_t, Floats v) { magnitudes = larger(magnitudes, magnitude(v)); });
      each(more, second, [&](int64_t, Floats v) { magnitudes = larger(magnitudes, magnitude(v)); });
      units_[row] = unit = unit_of(largest(magnitudes), P::RANGE);
    }
    Kept* to = in_ + row * stride;
    const auto keep = [&](int64_t i, Floats v) { P::keep(to + i, v, 1.f / unit); };
    each(from, first, keep);
    to += first;
    each(more, second, keep);
    // What a wider layer left behind would be multiplied with 0, and need not be a number.
    for (int64_t i = sizes_[0]; i % P::TOGETHER; i++) in_[row * stride + i] = 0;
  }

  void compute(int64_t rows) {
    int64_t end = 0;
    for (int64_t index = 0; index < depth_; index++) {
      const Layer<P> layer(sizes_, depth_, index, end);
      const float* bias = reinterpret_cast<const float*>(packed_ + layer.bias);
      for (int64_t r = 0; r < rows; r++) std::memcpy(out + r * stride, bias, layer.columns * 4);
      multiply<P>({in_, stride, reinterpret_cast<const typename P::Weight*>(packed_ + layer.weight), out, stride,
                   layer.deep, units_, reinterpret_cast<const float*>(packed_ + layer.units)},
                  layer.columns, rows, index + 1 < depth_ ? P::DEPTH : P::LAST_DEPTH);
      if (index + 1 < depth_)
        for (int64_t r = 0; r < rows; r++)
          units_[r] = activate<P>(out + r * stride, layer.out, reinterpret_cast<const float*>(packed_ + layer.gain),
                                  reinterpret_cast<const float*>(packed_ + layer.shift), in_ + r * stride);
      end = layer.end;
    }
  }

 private:
  struct Free {
    void operator()(unsigned char* p) const { ::operator delete(p, std::align_val_t(ALIGN)); }
  };

  // Calls `work` with every vector of some numbers and where it begins; the last one is filled up with 0.
  template <class Work>
  static void each(const float* from, int64_t width, Work work) {
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) work(i, load(from + i));
    if (i < width) {
      float rest[LANES] = {};
      std::memcpy(rest, from + i, (width - i) * sizeof(float));
      work(i, load(rest));
    }
  }

  const int64_t* sizes_;
  int64_t depth_;
  const unsigned char* packed_;
  std::unique_ptr<unsigned char, Free> memory_;
  Kept* in_;
  float units_[BLOCK];
};

// Numbers [n, steps, width]: where those of a row and step are.
struct Rows {
  const float* begin;
  int64_t row, step, width;

  const float* at(int64_t r, int64_t t) const { return begin + r * row + t * step; }
};

// `out [n, out]` of `x [n, in]`.
template <class P>
static void apply(Network<P>& net, int64_t n, const Rows& x, float* out, int64_t width) {
  for (int64_t first = 0; first < n; first += BLOCK) {
    const int64_t rows = std::min(BLOCK, n - first);
    for (int64_t r = 0; r < rows; r++) net.take(r, x.at(first + r, 0), x.width);
    net.compute(rows);
    for (int64_t r = 0; r < rows; r++) std::memcpy(out + (first + r) * width, net.out + r * net.stride, width * 4);
  }
}

static inline void add(const float* a, const float* b, int64_t width, float* to) {
  for (int64_t i = 0; i < width; i++) to[i] = a[i] + b[i];
}

// `out [n, steps, Z]`: from z on, `z += net(z, action)` with one action after the other.
template <class P>
static void roll_out(Network<P>& net, int64_t n, int64_t steps, const Rows& z, const Rows& actions, float* out) {
  for (int64_t first = 0; first < n; first += BLOCK) {
    const int64_t rows = std::min(BLOCK, n - first);
    for (int64_t t = 0; t < steps; t++) {
      for (int64_t r = 0; r < rows; r++) {
        float* ahead = out + ((first + r) * steps + t) * z.width;
        net.take(r, t ? ahead - z.width : z.at(first + r, 0), z.width, actions.at(first + r, t));
      }
      net.compute(rows);
      for (int64_t r = 0; r < rows; r++) {
        float* ahead = out + ((first + r) * steps + t) * z.width;
        add(t ? ahead - z.width : z.at(first + r, 0), net.out + r * net.stride, z.width, ahead);
      }
    }
  }
}

// The expected number of a distribution over bins that are even in symlog, by its logits; see control.TwoHot.
static inline float expected(float* logits, int64_t bins, float limit) {
  for (int64_t i = bins; i < up(bins, LANES); i++) logits[i] = -1e30f;
  Floats highest = load(logits);
  for (int64_t i = LANES; i < bins; i += LANES) highest = larger(highest, load(logits + i));
  const float most = largest(highest);
  Floats sum{}, weighted{}, index;
  for (int i = 0; i < LANES; i++) index[i] = static_cast<float>(i);
  for (int64_t i = 0; i < bins; i += LANES, index += static_cast<float>(LANES)) {
    const Floats likely = exponential<true>(load(logits + i) - most);
    sum += likely;
    weighted += likely * index;
  }
  const float symlog = total(weighted) / total(sum) * (2 * limit / static_cast<float>(bins - 1)) - limit;
  return std::copysign(std::expm1(std::fabs(symlog)), symlog);
}

// `out [n]`: expected numbers of states and actions.
template <class P>
static void expect(Network<P>& net, int64_t n, const Rows& z, const Rows& actions, float limit, float* out) {
  for (int64_t first = 0; first < n; first += BLOCK) {
    const int64_t rows = std::min(BLOCK, n - first);
    for (int64_t r = 0; r < rows; r++) net.take(r, z.at(first + r, 0), z.width, actions.at(first + r, 0));
    net.compute(rows);
    for (int64_t r = 0; r < rows; r++) out[first + r] = expected(net.out + r * net.stride, net.width(), limit);
  }
}

// What candidates are worth: `rewards [n, steps]` on the way, and `values [members, n]` of going on by the policy from
// where they lead. The same as `roll_out`, `expect` and `apply`, without a latent that leaves the cache.
template <class P>
static void judge(Network<P>& dynamics, Network<P>& reward, Network<P>& policy, std::vector<Network<P>>& value,
                  int64_t n, int64_t steps, int64_t each, const Rows& z, const Rows& actions, float limit,
                  float* rewards, float* values) {
  std::vector<float> states(BLOCK * z.width), chosen(actions.width);
  for (int64_t first = 0; first < n; first += BLOCK) {
    const int64_t rows = std::min(BLOCK, n - first);
    for (int64_t r = 0; r < rows; r++)
      std::memcpy(&states[r * z.width], z.at((first + r) / each, 0), z.width * sizeof(float));
    for (int64_t t = 0; t < steps; t++) {
      for (Network<P>* net : {&dynamics, &reward}) {
        for (int64_t r = 0; r < rows; r++) net->take(r, &states[r * z.width], z.width, actions.at(first + r, t));
        net->compute(rows);
      }
      for (int64_t r = 0; r < rows; r++) {
        rewards[(first + r) * steps + t] = expected(reward.out + r * reward.stride, reward.width(), limit);
        add(&states[r * z.width], dynamics.out + r * dynamics.stride, z.width, &states[r * z.width]);
      }
    }
    for (int64_t r = 0; r < rows; r++) policy.take(r, &states[r * z.width], z.width);
    policy.compute(rows);
    for (size_t k = 0; k < value.size(); k++) {
      for (int64_t r = 0; r < rows; r++) {
        const float* mean = policy.out + r * policy.stride;
        for (int64_t i = 0; i < actions.width; i++) chosen[i] = std::tanh(mean[i]);
        value[k].take(r, &states[r * z.width], z.width, chosen.data());
      }
      value[k].compute(rows);
      for (int64_t r = 0; r < rows; r++)
        values[k * n + first + r] = expected(value[k].out + r * value[k].stride, value[k].width(), limit);
    }
  }
}

// -- what is called from Python -----------------------------------------------------------------------------------------

template <class Work>
static bool with_precision(int64_t precision, Work work) {
  switch (precision) {
    case 0: work(Single{}); return true;
#if defined(__AVX512FP16__)
    case 1: work(Half{}); return true;
#endif
#if defined(__AVX512BF16__)
    case 2: work(Brain{}); return true;
#endif
    case 3: work(Whole{}); return true;
    default: return false;
  }
}

extern "C" {

// Bytes of a packed network; 0 for a precision that this processor does not compute in.
int64_t forethought_bytes(int64_t precision, const int64_t* sizes, int64_t depth) {
  int64_t result = 0;
  with_precision(precision, [&](auto p) { result = bytes<decltype(p)>(sizes, depth); });
  return result;
}

void forethought_pack(int64_t precision, const int64_t* sizes, int64_t depth, const float* const* from,
                      unsigned char* to) {
  with_precision(precision, [&](auto p) { pack<decltype(p)>(sizes, depth, from, to); });
}

void forethought_apply(int64_t precision, const int64_t* sizes, int64_t depth, const unsigned char* packed, int64_t n,
                       const float* x, int64_t row, float* out) {
  with_precision(precision, [&](auto p) {
    Network<decltype(p)> net(sizes, depth, packed);
    apply(net, n, {x, row, 0, sizes[0]}, out, sizes[depth]);
  });
}

void forethought_roll_out(int64_t precision, const int64_t* sizes, int64_t depth, const unsigned char* packed, int64_t n,
                          int64_t steps, const float* z, int64_t row, const float* actions, int64_t actions_row,
                          int64_t actions_step, float* out) {
  const int64_t width = sizes[depth];
  with_precision(precision, [&](auto p) {
    Network<decltype(p)> net(sizes, depth, packed);
    roll_out(net, n, steps, {z, row, 0, width}, {actions, actions_row, actions_step, sizes[0] - width}, out);
  });
}

void forethought_expect(int64_t precision, const int64_t* sizes, int64_t depth, const unsigned char* packed, int64_t n,
                        const float* z, int64_t width, int64_t row, const float* actions, int64_t actions_row,
                        float limit, float* out) {
  with_precision(precision, [&](auto p) {
    Network<decltype(p)> net(sizes, depth, packed);
    expect(net, n, {z, row, 0, width}, {actions, actions_row, 0, sizes[0] - width}, limit, out);
  });
}

// Networks in this order: dynamics, reward, policy, and values one after the other; `depth` is the same for all.
void forethought_judge(int64_t precision, const int64_t* const* sizes, int64_t depth, const unsigned char* const* packed,
                       int64_t members, int64_t n, int64_t steps, int64_t each, const float* z, int64_t row,
                       const float* actions, int64_t actions_row, int64_t actions_step, float limit, float* rewards,
                       float* values) {
  const int64_t width = sizes[0][depth], action = sizes[0][0] - width;
  with_precision(precision, [&](auto p) {
    using P = decltype(p);
    Network<P> dynamics(sizes[0], depth, packed[0]), reward(sizes[1], depth, packed[1]), policy(sizes[2], depth, packed[2]);
    std::vector<Network<P>> value;
    for (int64_t k = 0; k < members; k++)
      value.emplace_back(sizes[3], depth, packed[3] + k * bytes<P>(sizes[3], depth));
    judge(dynamics, reward, policy, value, n, steps, each, {z, row, 0, width},
          {actions, actions_row, actions_step, action}, limit, rewards, values);
  });
}
}
