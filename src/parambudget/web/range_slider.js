// The browser's own slider over given values. It moves at once; the server hears of it and answers only where
// it shows something else than what was chosen here.
export default {
  template: `<input type="range" class="pb-range" min="0" :max="stops.length - 1" :aria-label="label"
    :aria-valuetext="text" :value="position" @input="slide">`,
  props: { label: String, stops: Array, shown: Array },
  data() {
    return { position: 0, text: "" };
  },
  created() {
    this.show();
  },
  watch: {
    shown: "show",
  },
  methods: {
    show() {
      const [value] = this.shown;
      const distances = this.stops.map((stop) => Math.abs(stop - value));
      this.position = distances.indexOf(Math.min(...distances));
      this.text = value.toLocaleString("en");
    },
    slide(event) {
      this.position = event.target.valueAsNumber;
      this.text = this.stops[this.position].toLocaleString("en");
      this.$emit("slide", this.stops[this.position]);
    },
  },
};
